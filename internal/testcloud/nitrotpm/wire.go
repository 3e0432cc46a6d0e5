package nitrotpm

import "encoding/binary"

// reader takes big-endian fields off a command. After the first field that does not fit, bad is set and all others are
// zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return make([]byte, min(n, 8))
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

// sized takes a TPM2B: two bytes of length and as many of content.
func (r *reader) sized() []byte {
	n := int(r.u16())
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	return r.take(n)
}

// writer puts big-endian fields into a response.
type writer []byte

func (w *writer) u8(v uint8)   { *w = append(*w, v) }
func (w *writer) u16(v uint16) { *w = binary.BigEndian.AppendUint16(*w, v) }
func (w *writer) u32(v uint32) { *w = binary.BigEndian.AppendUint32(*w, v) }
func (w *writer) raw(b []byte) { *w = append(*w, b...) }

func (w *writer) sized(b []byte) {
	w.u16(uint16(len(b)))
	w.raw(b)
}
