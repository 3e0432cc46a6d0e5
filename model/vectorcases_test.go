package model_test

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/model"
)

const (
	chunkSize  = decrypt.ChunkSize
	sealedSize = decrypt.SealedChunkSize
	data0      = "data/00000"
	data1      = "data/00001"
)

func rules(r ...string) []string { return r }

// goodCases are models that load.
func goodCases() []vectorCase {
	good := func(name, comment string, p publication, r ...string) vectorCase {
		return vectorCase{name: name, vector: vector{Comment: comment, Rules: r}, build: p}
	}
	one := func(files ...content) publication {
		return publication{model: "acme/tiny-lm", version: 1, files: files}
	}
	many := one()
	for i := range 40 {
		many.files = append(many.files, file(fmt.Sprintf("shards/%02d/part-%02d.bin", i%4, i), i*37%1500))
	}
	script := file("bin/run.sh", 30)
	script.executable = true
	shuffled := small()
	shuffled.layout = func(m *model.Manifest) { slices.Reverse(m.Files) }
	spaced := small()
	spaced.editEnvelope = func(_ *testing.T, s string) string {
		return "\r\n\t " + strings.ReplaceAll(s, "\n", "\r\n\t") + " \n"
	}
	escaped := small()
	escaped.editManifest = swap(`"config.json"`, `"c\u006fnfig.json"`)
	extra := func(_ *testing.T, o objects) {
		o["data/99999"], o["README.md"] = []byte("not sealed"), []byte("# not part of the model\n")
	}
	return []vectorCase{
		good("ok-one-file", "one file of one short chunk", one(file("model.bin", 5)), "C-1", "K-2", "K-4", "E-1", "M-1"),
		good("ok-packed", "forty small files in one object, some of them across chunks", many, "M-8"),
		good("ok-empty-file", "an empty file has a place in an object and no bytes", one(file("a.bin", 10), file("empty", 0),
			file("z.bin", 10)), "M-8"),
		good("ok-empty-files-only", "a model of empty files has one object with one empty chunk",
			one(file("a/__init__.py", 0), file("b", 0)), "M-8", "C-2"),
		good("ok-chunk-boundary", "a file of exactly two chunks: a third chunk follows, which is empty",
			one(file("model.bin", 2*chunkSize)), "C-2"),
		good("ok-below-boundary", "a file of one byte less than a chunk", one(file("model.bin", chunkSize-1)), "C-2"),
		good("ok-above-boundary", "a file of one byte more than a chunk", one(file("model.bin", chunkSize+1)), "C-2"),
		good("ok-objects", "each file in an object of its own", pair(), "M-5"),
		good("ok-executable", "mode 0755: the owner may execute", one(script), "M-9"),
		good("ok-unicode-path", "paths are UTF-8 in NFC; names that differ in case are different", one(
			file("modèle/größe.bin", 3), file("README", 1), file("readme", 2)), "P-2", "P-6"),
		good("ok-files-in-any-order", "the order of files in the manifest means nothing", shuffled, "M-8"),
		good("ok-white-space", "white space around JSON tokens means nothing", spaced, "J-6"),
		good("ok-escapes", "escapes in strings are the characters they stand for", escaped, "J-7"),
		{name: "ok-extra-objects", build: small(), tamper: extra,
			vector: vector{Comment: "objects that the manifest does not name are ignored", Rules: rules("L-6")}},
	}
}

func selectionCases() []vectorCase {
	damaged := func(t *testing.T, o objects) { o[data1][len(o[data1])-1] ^= 1 }
	with := func(name, comment string, include, exclude []string, r ...string) vectorCase {
		return vectorCase{name: name, build: small(), vector: vector{Comment: comment, Include: include, Exclude: exclude,
			Rules: r}}
	}
	none := with("select-nothing", "a selection that matches no file is an error", []string{"*.safetensors"}, nil, "G-4")
	none.Expect, none.Error = 12, "none of the model's 3 files is selected"
	part := with("select-undamaged", "what is not selected is not read: a.bin loads although b.bin is damaged",
		[]string{"a.bin"}, nil, "L-5")
	part.build, part.tamper = pair(), damaged
	return []vectorCase{
		with("select-base-name", "a pattern without a slash matches the last element at any depth", []string{"merges.*"},
			nil, "G-2"),
		with("select-anchored", "a pattern that begins with a slash matches from the top only", []string{"/*"}, nil, "G-2"),
		with("select-directory", "** matches any number of elements", []string{"tokenizer/**"}, nil, "G-3"),
		with("select-exclude", "exclude wins over include", []string{"*.json", "*.bin"}, []string{"weights.*"}, "G-1"),
		none, part,
	}
}

// dataCases are what a store does to data objects and the manifest's bytes.
func dataCases() []vectorCase {
	refused := func(name, comment, err string, build publication, tamper func(*testing.T, objects),
		r ...string) vectorCase {
		return vectorCase{name: name, build: build, tamper: tamper, vector: vector{Comment: comment, Rules: r, Expect: 16,
			Error: err}}
	}
	data := func(name, comment, err string, edit func(b []byte) []byte, r ...string) vectorCase {
		return refused(name, comment, err, chunks(), func(_ *testing.T, o objects) { o[data0] = edit(o[data0]) }, r...)
	}
	cut := func(size int) vectorCase {
		return data(fmt.Sprintf("data-cut-to-%d", size), fmt.Sprintf("the object is cut to %d bytes", size),
			fmt.Sprintf("has %d bytes", size),
			func(b []byte) []byte { return b[:size] }, "C-2")
	}
	flip := func(name, comment, err string, at int) vectorCase {
		return data(name, comment, err, func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }, "C-4")
	}
	chunk := func(b []byte, i int) []byte { return b[56+i*sealedSize : min(56+(i+1)*sealedSize, len(b))] }
	return []vectorCase{
		cut(0), cut(55), cut(56), cut(71),
		data("data-cut-at-chunk", "the last chunk is gone", "has 32856 bytes",
			func(b []byte) []byte { return b[:56+2*sealedSize] }, "C-2"),
		data("data-cut-in-chunk", "the object ends inside a chunk", "has 20000 bytes",
			func(b []byte) []byte { return b[:20000] }, "C-2"),
		data("data-cut-in-tag", "the object ends inside the last tag", "has 32971 bytes",
			func(b []byte) []byte { return b[:len(b)-1] }, "C-2"),
		data("data-extended", "bytes follow the last chunk", "has 32992 bytes",
			func(b []byte) []byte { return append(b, make([]byte, 20)...) }, "C-2"),
		data("data-last-chunk-twice", "the last chunk follows itself", "has 33088 bytes",
			func(b []byte) []byte { return append(b, chunk(b, 2)...) }, "C-2"),
		data("data-chunks-swapped", "chunks 0 and 1 have changed places", "chunk 0 is not authentic", func(b []byte) []byte {
			return slices.Concat(b[:56], chunk(b, 1), chunk(b, 0), chunk(b, 2))
		}, "C-4"),
		data("data-chunk-replayed", "chunk 0 stands at chunk 1, too", "chunk 1 is not authentic", func(b []byte) []byte {
			return slices.Concat(b[:56], chunk(b, 0), chunk(b, 0), chunk(b, 2))
		}, "C-4"),
		flip("data-first-bit", "one bit of the first chunk is flipped", "chunk 0 is not authentic", 56),
		flip("data-middle-bit", "one bit of the middle chunk is flipped", "chunk 1 is not authentic", 56+sealedSize+5000),
		flip("data-last-tag-bit", "the very last bit is flipped", "chunk 2 is not authentic", -1),
		data("data-zeros", "the chunks are zeros", "chunk 0 is not authentic",
			func(b []byte) []byte { clear(b[56:]); return b }, "C-4"),
		data("data-plaintext", "the file itself stands in place of its object", "has 32868 bytes", func([]byte) []byte {
			return bytesOf("weights.bin", 2*chunkSize+100)
		}, "C-2", "L-4"),
		refused("data-empty-last-chunk", "a whole file is read with its empty last chunk, whose tag is wrong here",
			"chunk 1 is not authentic",
			publication{model: "acme/tiny-lm", version: 1, files: []content{file("model.bin", chunkSize)}},
			func(_ *testing.T, o objects) { o[data0][len(o[data0])-1] ^= 1 }, "L-5"),
		refused("data-objects-swapped", "two objects of the same size have changed places",
			`"data/00000": chunk 0 is not authentic`, pair(),
			func(_ *testing.T, o objects) { o[data0], o[data1] = o[data1], o[data0] }, "K-4"),
		refused("data-object-twice", "one object stands in place of another", `"data/00001": chunk 0 is not authentic`,
			pair(),
			func(_ *testing.T, o objects) { o[data1] = o[data0] }, "K-4"),
		refused("manifest-bit", "one bit of the sealed manifest is flipped", "chunk 0 is not authentic", small(),
			func(_ *testing.T, o objects) { o[model.ManifestName][100] ^= 1 }, "C-4", "C-5"),
		refused("manifest-commitment", "one bit of the manifest's key commitment is flipped", "commitment", small(),
			func(_ *testing.T, o objects) { o[model.ManifestName][30] ^= 1 }, "C-3"),
		refused("manifest-salt", "one bit of the manifest's salt is flipped", "commitment", small(),
			func(_ *testing.T, o objects) { o[model.ManifestName][0] ^= 1 }, "C-3"),
		refused("manifest-cut", "the manifest is cut", "the envelope says", small(),
			func(_ *testing.T, o objects) { o[model.ManifestName] = o[model.ManifestName][:200] }, "E-7"),
		refused("manifest-plaintext", "the manifest is JSON in place of its sealed form", "commitment", small(),
			func(t *testing.T, o objects) {
				o[model.ManifestName] = []byte(padTo(len(o[model.ManifestName]))(t, `{"format":"sealfetch/v1"}`))
			}, "C-3", "L-4"),
	}
}

// reusedKeyCases are models whose publisher used one MDK twice, against K-1. Objects still do not move between them.
func reusedKeyCases() []vectorCase {
	from := func(name, comment, err string, other publication, object string) vectorCase {
		mdk := bytesOf("reused", decrypt.KeySize)
		p := pair()
		p.mdk = mdk
		other.mdk = mdk
		tamper := func(t *testing.T, o objects) {
			g := &generator{t: t, kek: make([]byte, 32)}
			foreign, _ := g.publish(other)
			o[object] = foreign[object]
		}
		v := vector{Comment: comment, Rules: rules("K-4"), Expect: 16, Error: err}
		return vectorCase{name: name, build: p, tamper: tamper, vector: v}
	}
	older, stranger := pair(), pair()
	older.version = 2
	stranger.model = "acme/other-lm"
	return []vectorCase{
		from("manifest-of-older-version", "the manifest of version 2 under the envelope of version 3, one MDK for both",
			"commitment", older, model.ManifestName),
		from("data-of-older-version", "an object of version 2 in version 3, one MDK for both",
			`"data/00001": chunk 0 is not authentic`, older, data1),
		from("data-of-other-model", "an object of another model, one MDK for both",
			`"data/00001": chunk 0 is not authentic`, stranger, data1),
	}
}

// keyCases are wrong keys, missing objects and pins.
func keyCases() []vectorCase {
	missing := func(name, object string, keyless bool) vectorCase {
		return vectorCase{name: name, build: small(), tamper: func(_ *testing.T, o objects) { delete(o, object) },
			vector: vector{Comment: object + " is missing", Rules: rules("L-4"), Expect: 11, Error: object, Keyless: keyless}}
	}
	pinned := func(name, comment, err string, pins vectorPins, r ...string) vectorCase {
		v := vector{Comment: comment, Rules: r, Pins: &pins, Expect: 12, Error: err, Keyless: true}
		return vectorCase{name: name, build: small(), vector: v}
	}
	wrong := small()
	wrong.wrapped = bytesOf("another key", decrypt.KeySize)
	short := small()
	short.wrapped = bytesOf("short", 16)
	id := model.ID(bytesOf("the publisher's", 32))
	met := vectorCase{name: "ok-pins-met", build: small(), vector: vector{Comment: "exact and lowest version are met",
		Rules: rules("L-2"), Pins: &vectorPins{Version: 3, MinVersion: 2}}}
	header := small()
	header.editManifest = flipDigit(`"header":"`)
	return []vectorCase{
		met,
		{name: "key-wrong", build: wrong,
			vector: vector{Comment: "the released key is another model's: mdk_id is not reproduced",
				Rules: rules("K-3"), Expect: 15, Error: "the released key has id"}},
		{name: "key-short", build: short, vector: vector{Comment: "the released key is 16 bytes long", Rules: rules("K-1"),
			Expect: 15, Error: "16 bytes"}},
		{name: "header-wrong", build: header,
			vector: vector{Comment: "the manifest's header of an object does not commit to its key",
				Rules: rules("C-3", "M-13"), Expect: 16, Error: "commitment"}},
		missing("missing-envelope", model.EnvelopeName, true),
		missing("missing-manifest", model.ManifestName, false),
		missing("missing-data", data0, false),
		pinned("pin-version", "version 4 is demanded, version 3 is served", "version 4 is demanded", vectorPins{Version: 4},
			"L-2"),
		pinned("pin-min-version", "an old version is replayed", "version 4 or later is demanded", vectorPins{MinVersion: 4},
			"L-2"),
		pinned("pin-mdk-id", "somebody who may wrap keys published a model of their own", "mdk_id", vectorPins{MDKID: &id},
			"L-2"),
	}
}

// envelopeCase is an envelope that is refused before a key is asked for.
func envelopeCase(name, comment, err string, change edit, r ...string) vectorCase {
	p := small()
	p.editEnvelope = change
	v := vector{Comment: comment, Rules: r, Expect: 12, Error: err, Keyless: true}
	return vectorCase{name: "envelope-" + name, build: p, vector: v}
}

func envelopeCases() []vectorCase {
	return []vectorCase{
		envelopeCase("format", "a format of the future",
			"sealfetch/v2", swap(`"sealfetch/v1"`, `"sealfetch/v2"`), "E-2"),
		envelopeCase("suite", "another suite",
			"cobblestone-128", swap(`"cobblestone-256"`, `"cobblestone-128"`), "E-3"),
		envelopeCase("version-zero", "version 0",
			"version 0", swap(`"version": 3`, `"version": 0`), "E-5"),
		envelopeCase("version-huge", "a version of 2^53",
			"version 9007199254740992", swap(`"version": 3`, `"version": 9007199254740992`), "E-5"),
		envelopeCase("version-negative", "a negative version",
			"version", swap(`"version": 3`, `"version": -3`), "E-5"),
		envelopeCase("model-empty", "a model without a name",
			"model name", swap(`"acme/tiny-lm"`, `""`), "E-4"),
		envelopeCase("model-dots", "a model name that climbs",
			"model name", swap(`"acme/tiny-lm"`, `"acme/../tiny-lm"`), "E-4"),
		envelopeCase("model-space", "a model name with a space",
			"model name", swap(`"acme/tiny-lm"`, `"acme/tiny lm"`), "E-4"),
		envelopeCase("model-long", "a model name of 257 bytes",
			"model name", swap(`"acme/tiny-lm"`, `"`+strings.Repeat("m", 257)+`"`), "E-4"),
		envelopeCase("mdk-id-short", "an mdk_id of 31 bytes",
			"mdk_id", set("mdk_id", `"`+strings.Repeat("A", 42)+`"`), "E-6"),
		envelopeCase("manifest-size", "a manifest of 16 MiB and one byte",
			"manifest.size", set("size", fmt.Sprint(decrypt.SealedSize(model.MaxManifestSize+1))), "E-7", "M-1"),
		envelopeCase("manifest-size-gap", "a size that no sealed object has",
			"manifest.size", set("size", "71"), "E-7"),
		envelopeCase("model-size-negative", "a negative model_size",
			"model_size", set("model_size", "-1"), "E-8"),
		envelopeCase("model-size-huge", "a model_size of 2^53",
			"model_size", set("model_size", fmt.Sprint(1<<53)), "E-8"),
		envelopeCase("model-size-overflow", "a model_size of 2^63",
			"model_size", set("model_size", "9223372036854775808"), "E-8"),
		envelopeCase("too-large", "white space up to 64 KiB and one byte",
			"more than 65536 bytes", padTo(model.MaxEnvelopeSize+1), "E-1"),
	}
}

func envelopeJSONCases() []vectorCase {
	return []vectorCase{
		envelopeCase("unknown-field", "a field that the format does not have",
			"compress: unknown field", swap(`"suite"`, `"compress": true, "suite"`), "J-3"),
		envelopeCase("duplicate-field", "a field twice, with two values",
			"version: duplicate field", swap(`"version": 3`, `"version": 3, "version": 4`), "J-2"),
		envelopeCase("case-of-field", "a field's name in capitals besides the field",
			"VERSION: unknown field", swap(`"version": 3`, `"version": 3, "VERSION": 4`), "J-3"),
		envelopeCase("escaped-field", "a field's name with an escape",
			"unknown field", swap(`"version"`, `"versio\u006e"`), "J-3"),
		envelopeCase("null", "null in place of a value",
			"model: null", swap(`"acme/tiny-lm"`, `null`), "J-4"),
		envelopeCase("absent-field", "a field is absent",
			`no field "suite"`, swap(`"suite": "cobblestone-256",`, ``), "J-4"),
		envelopeCase("empty-optional", "an optional field that is there but empty",
			"wraps[0].resource: empty", swap(`"kid"`, `"resource": "", "kid"`), "J-4"),
		envelopeCase("version-fraction", "a version with a fraction",
			"version", swap(`"version": 3`, `"version": 3.0`), "J-5"),
		envelopeCase("version-exponent", "a version with an exponent",
			"version", swap(`"version": 3`, `"version": 3e0`), "J-5"),
		envelopeCase("version-string", "a version in quotes",
			"version: not an integer", swap(`"version": 3`, `"version": "3"`), "J-5"),
		envelopeCase("mdk-id-not-canonical", "an mdk_id whose unused bits are not zero",
			"mdk_id", set("mdk_id", `"`+strings.Repeat("A", 42)+`B"`), "J-8"),
		envelopeCase("mdk-id-padded", "an mdk_id with padding",
			"mdk_id", set("mdk_id", `"`+strings.Repeat("A", 43)+`="`), "J-8"),
		envelopeCase("no-json", "no JSON at all",
			"not an object", is("sealed"), "J-1"),
		envelopeCase("empty", "no bytes at all",
			"not an object", is(""), "J-1"),
		envelopeCase("byte-order-mark", "a byte order mark in front",
			"not an object", around("\ufeff", ""), "J-1"),
		envelopeCase("not-utf8", "a byte that is not UTF-8",
			"not UTF-8", swap(`tiny-lm`, "tiny-\xff"), "J-1"),
		envelopeCase("half-surrogate", "half a surrogate pair",
			"half a surrogate pair", swap(`tiny-lm`, `tiny-\ud800`), "J-7"),
		envelopeCase("trailing", "a second document behind the first",
			"behind the end", around("", "{}"), "J-6"),
	}
}

func wrapCases() []vectorCase {
	wraps := func(json string) edit { return until(`"wraps"`, `"wraps": `+json+"}") }
	const kbs = `{"type": "kbs", "resource": "kbs:///a/b/c"}`
	const kms = `"type": "aws-kms", "key": "arn:aws:kms:eu-central-1:111122223333:key/k", "ciphertext": `
	return []vectorCase{
		envelopeCase("deep", "ten thousand brackets",
			"wraps[0]: not an object", wraps(strings.Repeat("[", 10000)+strings.Repeat("]", 10000)), "J-4"),
		envelopeCase("no-wraps", "no way in to the key",
			"0 wraps", wraps("[]"), "E-9"),
		envelopeCase("many-wraps", "33 wraps",
			"33 wraps", wraps("["+strings.Repeat(kbs+",", 32)+kbs+"]"), "E-9"),
		envelopeCase("wrap-type", "a wrap of an unknown type",
			`type "rot13"`, wraps(`[{"type": "rot13", "key": "k"}]`), "E-10"),
		envelopeCase("wrap-field-missing", "a KMS wrap without its ciphertext",
			"has key and ciphertext", wraps(`[{"type": "aws-kms", "key": "k"}]`), "E-10"),
		envelopeCase("wrap-foreign-field", "a KMS wrap with a JWE besides",
			"has key and ciphertext", wraps(`[{`+kms+`"AAAA", "jwe": "e30"}]`), "E-10"),
		envelopeCase("wrap-broker", "a KBS resource that names its broker",
			"has a resource", wraps(`[{"type": "kbs", "resource": "kbs://evil.example/a/b/c"}]`), "E-10"),
		envelopeCase("wrap-not-canonical", "a ciphertext whose unused bits are not zero",
			"canonical", wraps(`[{`+kms+`"AB"}]`), "J-8"),
		envelopeCase("wrap-newline", "a key id with a line break",
			"printable ASCII", wraps(`[{"type": "jwe", "kid": "a\nb", "jwe": "e30"}]`), "E-10"),
	}
}

// manifestCase is a manifest that is authentic under its key, and wrong.
func manifestCase(name, comment, err string, change edit, r ...string) vectorCase {
	p := small()
	p.editManifest = change
	return vectorCase{name: "manifest-" + name, build: p, vector: vector{Comment: comment, Rules: r, Expect: 12,
		Error: err}}
}

func manifestCases() []vectorCase {
	capitals := `"mode":"0644","sha256":"` + strings.Repeat("A", 64) + `"`
	empty := func(i int) string {
		return fmt.Sprintf(`{"name":"data/%05d","size":0,"header":"%s"},`, i, strings.Repeat("A", 75))
	}
	return []vectorCase{
		manifestCase("format", "another format",
			"sealfetch/v2", swap(`"sealfetch/v1"`, `"sealfetch/v2"`), "M-2"),
		manifestCase("other-model", "the manifest is of another model",
			"acme/other", swap(`"acme/tiny-lm"`, `"acme/other"`), "M-3"),
		manifestCase("other-version", "the manifest is of another version",
			"version 2", swap(`"version":3`, `"version":2`), "M-3"),
		manifestCase("created", "a date that is none",
			"created", swap(`"2026-11-22T10:00:00Z"`, `"yesterday"`), "M-11"),
		manifestCase("no-files", "a model without files",
			"0 files", until(`"objects"`, `"objects":[],"files":[]}`), "M-4"),
		manifestCase("objects-without-files", "more objects than files",
			"4 objects, more than files", swap(`"objects":[`, `"objects":[`+empty(1)+empty(2)+empty(3)), "M-4"),
		manifestCase("object-name", "an object outside data/",
			"the name is not", swap(`"data/00000"`, `"../00000"`), "M-5"),
		manifestCase("object-name-letters", "an object name with letters",
			"the name is not", swap(`"data/00000"`, `"data/config"`), "M-5"),
		manifestCase("object-size-negative", "an object of negative size",
			"negative", swap(`"size":354`, `"size":-354`), "M-6"),
		manifestCase("file-object", "a file in an object that is not there",
			"object 1 of 1", swap(`"size":14,"object":0`, `"size":14,"object":1`), "M-7"),
		manifestCase("file-object-negative", "a file in object -1",
			"object -1 of 1", swap(`"size":14,"object":0`, `"size":14,"object":-1`), "M-7"),
		manifestCase("file-beyond", "a file that ends behind its object",
			"not inside its object", swap(`"size":300`, `"size":301`), "M-7"),
		manifestCase("file-size-max", "a file whose offset and size overflow when added",
			"not inside its object", swap(`"size":300`, `"size":9223372036854775807`), "M-7"),
		manifestCase("file-offset-negative", "a negative offset",
			"not inside its object", swap(`"offset":0`, `"offset":-1`), "M-7"),
		manifestCase("gap", "a byte that no file has",
			"begins at 15, not at 14", swap(`"size":40,"object":0,"offset":14`, `"size":39,"object":0,"offset":15`), "M-8"),
		manifestCase("overlap", "a byte that two files have",
			"begins at 13, not at 14", swap(`"size":40,"object":0,"offset":14`, `"size":41,"object":0,"offset":13`), "M-8"),
		manifestCase("tail", "bytes behind the last file",
			"cover 353 of 354 bytes", swap(`"size":300`, `"size":299`), "M-8"),
		manifestCase("empty-file-inside", "an empty file inside another file",
			"begins at 10, not at 14", swap(`"files":[`,
				`"files":[{"path":"inside","size":0,"object":0,"offset":10,"mode":"0644"},`), "M-8"),
		manifestCase("mode", "a mode in another notation",
			"mode", swap(`"offset":0,"mode":"0644"`, `"offset":0,"mode":"rw-r"`), "M-9"),
		manifestCase("sha256", "a digest in capitals",
			"sha256", swap(`"mode":"0644"},{"path":"tok`, capitals+`},{"path":"tok`), "M-10"),
		manifestCase("model-size", "files and objects agree on another size than the envelope",
			"the envelope says 354", both(swap(`"size":300`, `"size":301`), swap(`"size":354`, `"size":355`)), "M-12"),
	}
}

func manifestJSONCases() []vectorCase {
	return []vectorCase{
		manifestCase("unknown-field", "a field that the format does not have",
			"files[0].link: unknown field", swap(`"mode":"0644"},{"path":"tok`,
				`"mode":"0644","link":"x"},{"path":"tok`), "J-3"),
		manifestCase("duplicate-field", "a file with two paths",
			"files[0].path: duplicate field", swap(`"path":"config.json"`, `"path":"config.json","path":"/etc/passwd"`), "J-2"),
		manifestCase("absent-field", "a file without a mode",
			`no field "mode"`, swap(`"size":14,"object":0,"offset":0,"mode":"0644"`, `"size":14,"object":0,"offset":0`), "J-4"),
		manifestCase("trailing", "a brace too many",
			"behind the end", swap(`"mode":"0644"}]}`, `"mode":"0644"}]}}`), "J-6"),
		manifestCase("empty", "no JSON in the manifest",
			"not an object", until("", " "), "J-1"),
		manifestCase("deep", "ten thousand brackets",
			"objects[0]: not an object", until(`"objects"`, `"objects":`+strings.Repeat("[", 10000)), "J-4"),
		manifestCase("header-short", "a header of 55 bytes",
			"header", set("header", `"`+strings.Repeat("A", 74)+`"`), "J-8"),
	}
}

// objectCases are wrong manifests of two or three objects.
func objectCases() []vectorCase {
	several := func(name, comment, err string, change edit, r ...string) vectorCase {
		c := manifestCase(name, comment, err, change, r...)
		c.build.files, c.build.apart = pair().files, true
		return c
	}
	everySize := func(size int64) edit {
		return func(_ *testing.T, s string) string {
			return strings.ReplaceAll(s, fmt.Sprint(chunkSize+100), fmt.Sprint(size))
		}
	}
	total := several("total-overflow", "three objects that are within bounds each and not together",
		"too large", everySize(decrypt.MaxPlainSize), "M-6")
	total.build.files = append(total.build.files, file("c.bin", chunkSize+100))
	return []vectorCase{
		total,
		several("size-overflow", "two objects whose sizes overflow when added",
			"size 9223372036854775807", everySize(math.MaxInt64), "M-6"),
		several("object-twice", "two objects of one name",
			"comes twice", swap(`"data/00001"`, `"data/00000"`), "M-5"),
		several("object-unused", "an object without files",
			"no file is in it", swap(`"size":16484,"object":1,"offset":0`, `"size":0,"object":0,"offset":16484`), "M-8"),
	}
}

// pathCase is a manifest whose first file has another path, as JSON spells it.
func pathCase(name, comment, err, path string, r ...string) vectorCase {
	return manifestCase("path-"+name, comment, err, swap(`"config.json"`, `"`+path+`"`), r...)
}

func pathCases() []vectorCase {
	return []vectorCase{
		pathCase("climbs", "a path that leaves the destination",
			`element ".."`, "../config.json", "P-4"),
		pathCase("climbs-inside", "a path that climbs further in",
			`element ".."`, "a/../config.json", "P-4"),
		pathCase("dot", "a path with a . element",
			`element "."`, "./config.json", "P-4"),
		pathCase("absolute", "an absolute path",
			`element ""`, "/config.json", "P-4"),
		pathCase("double-slash", "a path with an empty element",
			`element ""`, "a//config.json", "P-4"),
		pathCase("trailing-slash", "a path that ends with a slash",
			`element ""`, "config.json/", "P-4"),
		pathCase("empty", "an empty path",
			"0 bytes", "", "P-1"),
		pathCase("long", "a path of 1025 bytes",
			"1025 bytes", strings.Repeat("abcd/", 204)+"abcde", "P-1"),
		pathCase("long-element", "an element of 256 bytes",
			"255 bytes", strings.Repeat("a", 256), "P-4"),
		pathCase("nul", "a path with NUL",
			"control character", `a\u0000b`, "P-3"),
		pathCase("escape-sequence", "a path that writes on terminals",
			"control character", `a\u001b[2J`, "P-3"),
		pathCase("backslash", "a path with a backslash",
			"backslash", `a\\b`, "P-3"),
		pathCase("decomposed", "a path that is not in NFC",
			"NFC", "e\u0301", "P-2"),
		pathCase("staging", "a path that meddles with the loader's directories",
			"the loader's own", ".sealfetch-x/config.json", "P-5"),
		pathCase("twice", "a path twice",
			"comes twice", "weights.bin", "P-6"),
		pathCase("file-and-directory", "a path that is a directory of another",
			"is a directory of", "tokenizer", "P-6"),
	}
}

// signed is a model that is signed by each of the signers.
func signed(signers ...crypto.Signer) publication {
	p := small()
	p.signers = signers
	return p
}

func goodSignatureCases(g *generator) []vectorCase {
	good := func(name, comment string, p publication, trust ...string) vectorCase {
		v := vector{Comment: comment, Rules: rules("S-1", "S-3"), Trust: trust}
		return vectorCase{name: name, build: p, vector: v}
	}
	rewrapped := signed(g.ed25519)
	rewrapped.editEnvelope = swap(`"wraps": [`, `"wraps": [{"type": "kbs", "resource": "kbs:///models/tiny-lm/v3"},`)
	lax := good("ok-signed-unknown-field",
		"DSSE has consumers ignore fields that they do not know, and take URL-safe base64",
		signed(g.ed25519), "ed25519.pem")
	lax.Rules = rules("S-2")
	lax.tamper = editSignature(func(t *testing.T, s string) string {
		urlSafe := strings.NewReplacer(model.PayloadType, model.PayloadType, "+", "-", "/", "_")
		return urlSafe.Replace(swap("{\n  \"payload\"", "{\n  \"note\": null,\n  \"payload\"")(t, s))
	})
	return []vectorCase{
		good("ok-signed-ed25519", "signed with Ed25519", signed(g.ed25519), "ed25519.pem"),
		good("ok-signed-p256", "signed with ECDSA P-256", signed(g.p256), "p256.pem"),
		good("ok-signed-by-one-of-two", "one signature by a trusted key suffices", signed(g.stranger, g.p256), "p256.pem",
			"ed25519.pem"),
		good("ok-signed-rewrapped", "rotation of the wraps leaves the signature good", rewrapped, "ed25519.pem"),
		lax,
	}
}

func editSignature(change edit) func(*testing.T, objects) {
	return func(t *testing.T, o objects) {
		o[model.SignatureName] = []byte(change(t, string(o[model.SignatureName])))
	}
}

// signatureCase is a model of which a signature by ed25519.pem is demanded.
func signatureCase(name, comment, err string, p publication, tamper func(*testing.T, objects), r ...string) vectorCase {
	v := vector{Comment: comment, Rules: r, Trust: []string{"ed25519.pem"}, Expect: 12, Error: err, Keyless: true}
	return vectorCase{name: "signature-" + name, build: p, tamper: tamper, vector: v}
}

func signatureCases(g *generator) []vectorCase {
	edited := func(name, comment, err string, change edit, r ...string) vectorCase {
		return signatureCase(name, comment, err, signed(g.ed25519), editSignature(change), r...)
	}
	resigned := func(name, comment, err string, payload edit) vectorCase {
		tamper := func(t *testing.T, o objects) { resign(t, g, o, payload) }
		return signatureCase(name, comment, err, signed(g.ed25519), tamper, "S-4")
	}
	otherManifest := func(_ *testing.T, o objects) { o[model.ManifestName][100] ^= 1 }
	const sig = `{"sig": "AAAA"}`
	return []vectorCase{
		signatureCase("missing", "a signature is demanded and none is there",
			"no signature", small(), nil, "S-1"),
		signatureCase("stranger", "signed by a key that is not trusted",
			"no signature is by a trusted key", signed(g.stranger), nil, "S-3"),
		signatureCase("manifest-replaced", "the manifest is not the one that was signed",
			"not what is published", signed(g.ed25519), otherManifest, "S-4"),
		edited("bit", "one bit of the signature is flipped",
			"no signature is by a trusted key", flipDigit(`"sig": "`), "S-3"),
		edited("type", "another payload type",
			"payload type", swap(model.PayloadType, "application/vnd.in-toto+json"), "S-2"),
		edited("no-json", "no JSON",
			"invalid", swap("{\n  \"payload\"", "[\n  \"payload\""), "S-2"),
		edited("none", "an envelope without signatures",
			"0 signatures", until(`"signatures"`, `"signatures": []}`), "S-2"),
		edited("many", "17 signatures",
			"17 signatures", until(`"signatures"`, `"signatures": [`+strings.Repeat(sig+",", 16)+sig+`]}`), "S-2"),
		edited("too-large", "white space up to 64 KiB and one byte",
			"more than 65536 bytes", padTo(model.MaxSignatureSize+1), "S-2"),
		resigned("other-version", "a trusted signature of another version",
			"not what is published", swap(`"version":3`, `"version":2`)),
		resigned("payload-field", "a signed statement with a field too many",
			"unknown field", swap(`{"format"`, `{"note":"x","format"`)),
		resigned("payload-duplicate", "a signed statement that says two things",
			"duplicate field", swap(`"version":3`, `"version":2,"version":3`)),
	}
}

// digestCases are refused when the manifest or the content is read.
func digestCases(g *generator) []vectorCase {
	noDigests, forged := signed(g.ed25519), signed(g.ed25519)
	noDigests.noDigests = true
	forged.editObject = func(_ int, plaintext []byte) { plaintext[0] ^= 1 }
	cases := []vectorCase{
		signatureCase("no-digests", "the signed manifest has no digests of its files",
			"has no sha256", noDigests, nil, "S-5"),
		signatureCase("forged-content", "somebody who holds the key sealed other content under the signed manifest",
			"is not what was signed", forged, nil, "S-5"),
	}
	cases[0].Keyless, cases[1].Keyless, cases[1].Expect = false, false, 16
	return cases
}

// resign replaces a payload and signs it.
func resign(t *testing.T, g *generator, o objects, change edit) {
	t.Helper()
	var d map[string]any
	if err := json.Unmarshal(o[model.SignatureName], &d); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(d["payload"].(string))
	if err != nil {
		t.Fatal(err)
	}
	payload = []byte(change(t, string(payload)))
	message := fmt.Sprintf("DSSEv1 %d %s %d %s", len(model.PayloadType), model.PayloadType, len(payload), payload)
	sig, err := g.ed25519.Sign(nil, []byte(message), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	d["payload"] = base64.StdEncoding.EncodeToString(payload)
	d["signatures"] = []any{map[string]any{"keyid": "", "sig": base64.StdEncoding.EncodeToString(sig)}}
	o[model.SignatureName] = marshalIndent(t, d)
}
