package model_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/model"
)

func BenchmarkParseManifest100k(b *testing.B) {
	sources := make([]model.Source, model.MaxFiles)
	for i := range sources {
		sources[i] = model.Source{Path: fmt.Sprintf("shards/%03d/weights-%06d.bin", i%1000, i), Size: int64(i)}
	}
	m, err := model.NewManifest("acme/many", 1, time.Unix(0, 0), sources)
	if err != nil {
		b.Fatal(err)
	}
	plain, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := model.ParseManifest(plain); err != nil {
			b.Fatal(err)
		}
	}
}
