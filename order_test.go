package sealfetch

import (
	"slices"
	"testing"

	"github.com/sealfetch/sealfetch/fetch"
)

func TestPartsAreStartedLargestFirstAndInTurns(t *testing.T) {
	var plan fetch.Plan
	for object, parts := range []int{1, 3, 2, 1, 1, 1, 1, 1, 1, 4} {
		plan.Objects = append(plan.Objects, fetch.Object{Size: int64(parts)})
		for nth := range parts {
			plan.Parts = append(plan.Parts, fetch.Part{Object: object, Off: int64(nth), Len: 1})
		}
	}
	got := inOrder(plan)
	var objects []int
	next := make([]int64, len(plan.Objects))
	for _, p := range got {
		objects = append(objects, p.Object)
		if p.Off != next[p.Object] {
			t.Errorf("part %d of object %d is out of its order", p.Off, p.Object)
		}
		next[p.Object]++
	}
	if want := []int{9, 1, 2, 0, 3, 4, 5, 6, 9, 1, 2, 9, 1, 9, 7, 8}; !slices.Equal(objects, want) {
		t.Errorf("objects in the order %v, want %v", objects, want)
	}
}

func TestPartSizeIsWholeWindowsWithinBounds(t *testing.T) {
	for _, total := range []int64{0, 1, 200 << 20, 1 << 30, 3<<30 + 5, 1 << 40, 1 << 52} {
		size := partSize(total)
		if size%WindowSize != 0 || size < leastPart {
			t.Errorf("parts of %d bytes for %d", size, total)
		}
		if size > mostPart && total/size > manyParts {
			t.Errorf("%d bytes make %d parts", total, total/size)
		}
	}
}
