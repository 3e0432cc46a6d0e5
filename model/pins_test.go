package model_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

var idA, idB = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)

func TestPinsCheck(t *testing.T) {
	e := &model.Envelope{Model: "acme/m", Version: 3, MDKID: model.ID(idA)}
	for _, c := range []struct {
		pins model.Pins
		want string // of the error; empty: none
	}{
		{model.Pins{}, ""},
		{model.Pins{Version: 3, MinVersion: 3, MDKID: idA}, ""},
		{model.Pins{MinVersion: 2}, ""},
		{model.Pins{Version: 2}, "version 2 is demanded"},
		{model.Pins{Version: 4}, "version 4 is demanded"},
		{model.Pins{MinVersion: 4}, "version 4 or later is demanded"},
		{model.Pins{MDKID: idB}, "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI is demanded"},
		{model.Pins{MDKID: idA[:31]}, "is demanded"},
		{model.Pins{MDKID: []byte{}}, "is demanded"},
	} {
		err := c.pins.Check(e)
		if c.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", c.pins, err)
			}
			continue
		}
		if !fault.Is(err, fault.Format) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(),
			"acme/m version 3") {
			t.Errorf("%+v: %v, want %q", c.pins, err, c.want)
		}
	}
}

func TestPinsTighten(t *testing.T) {
	for _, c := range []struct {
		config, uri, want model.Pins
		err               string
	}{
		{},
		{config: model.Pins{Version: 3}, want: model.Pins{Version: 3}},
		{uri: model.Pins{Version: 3}, want: model.Pins{Version: 3}},
		{config: model.Pins{Version: 3}, uri: model.Pins{Version: 3}, want: model.Pins{Version: 3}},
		{config: model.Pins{Version: 3}, uri: model.Pins{Version: 4}, err: "versions 3 and 4"},
		{config: model.Pins{MinVersion: 5}, uri: model.Pins{MinVersion: 2}, want: model.Pins{MinVersion: 5}},
		{config: model.Pins{MinVersion: 2}, uri: model.Pins{MinVersion: 5}, want: model.Pins{MinVersion: 5}},
		{config: model.Pins{MinVersion: 2}, uri: model.Pins{Version: 3}, want: model.Pins{Version: 3, MinVersion: 2}},
		{config: model.Pins{MinVersion: 4}, uri: model.Pins{Version: 3}, err: "version 3 and at least version 4"},
		{config: model.Pins{Version: 3}, uri: model.Pins{MinVersion: 4}, err: "version 3 and at least version 4"},
		{config: model.Pins{MDKID: idA}, want: model.Pins{MDKID: idA}},
		{uri: model.Pins{MDKID: idA}, want: model.Pins{MDKID: idA}},
		{config: model.Pins{MDKID: idA}, uri: model.Pins{MDKID: idA}, want: model.Pins{MDKID: idA}},
		{config: model.Pins{MDKID: idA}, uri: model.Pins{MDKID: idB}, err: "mdk_id"},
	} {
		got, err := c.config.Tighten(c.uri)
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%+v and %+v: %+v, %v", c.config, c.uri, got, err)
		}
		if c.err != "" && (!fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), c.err) || !reflect.DeepEqual(got,
			model.Pins{})) {
			t.Errorf("%+v and %+v: %+v, %v, want %q", c.config, c.uri, got, err, c.err)
		}
	}
}
