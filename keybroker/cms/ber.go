package cms

import (
	"errors"
	"fmt"
)

// Limits of what is read. A real message for a key of 32 bytes under RSA-3072 is about 620 bytes.
const (
	maxMessage  = 8 << 10 // bytes
	maxDepth    = 16      // nested elements; a real message has 11
	maxElements = 256
)

// Tags as they stand in an identifier octet: class, constructed bit and number together.
// Source: ITU-T X.690, section 8.1.2.
const (
	constructed = 0x20

	tagInteger     = 0x02
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	tagContext0    = 0x80
	tagContext1    = 0x81
)

var errTruncated = errors.New("the message ends in the middle of an element")

// element is one BER element. It has children if it is constructed, and content if it is not.
type element struct {
	tag      byte
	content  []byte
	children []element
}

// parser reads BER within the limits. It takes the definite and the indefinite form of lengths, and of the former only
// the shortest encoding, as DER does.
type parser struct {
	rest     []byte
	elements int
}

// parseBER reads a message that is one element and nothing else.
func parseBER(message []byte) (element, error) {
	if len(message) > maxMessage {
		return element{}, fmt.Errorf("a message of %d bytes, more than %d", len(message), maxMessage)
	}
	p := &parser{rest: message}
	e, err := p.element(1)
	if err != nil {
		return element{}, err
	}
	if len(p.rest) != 0 {
		return element{}, fmt.Errorf("%d bytes after the message", len(p.rest))
	}
	return e, nil
}

func (p *parser) element(depth int) (element, error) {
	if p.elements++; p.elements > maxElements {
		return element{}, fmt.Errorf("more than %d elements", maxElements)
	}
	if depth > maxDepth {
		return element{}, fmt.Errorf("elements nested deeper than %d", maxDepth)
	}
	if len(p.rest) < 2 {
		return element{}, errTruncated
	}
	e := element{tag: p.rest[0]}
	if e.tag&0x1f == 0x1f {
		return element{}, fmt.Errorf("a tag of more than one byte (%#x)", e.tag)
	}
	length, indefinite, err := p.length()
	if err != nil {
		return element{}, err
	}
	if indefinite {
		return p.indefinite(e, depth)
	}
	if length > len(p.rest) {
		return element{}, errTruncated
	}
	e.content, p.rest = p.rest[:length], p.rest[length:]
	if e.tag&constructed == 0 {
		return e, nil
	}
	inner := &parser{rest: e.content, elements: p.elements}
	e.content = nil
	for len(inner.rest) > 0 {
		child, err := inner.element(depth + 1)
		if err != nil {
			return element{}, err
		}
		e.children = append(e.children, child)
	}
	p.elements = inner.elements
	return e, nil
}

// length reads identifier and length octets off the message. Two length octets are enough for maxMessage.
func (p *parser) length() (length int, indefinite bool, err error) {
	first := p.rest[1]
	switch {
	case first < 0x80:
		p.rest = p.rest[2:]
		return int(first), false, nil
	case first == 0x80:
		p.rest = p.rest[2:]
		return 0, true, nil
	case first > 0x82:
		return 0, false, fmt.Errorf("a length of %d bytes", first&0x7f)
	}
	count := int(first & 0x7f)
	if len(p.rest) < 2+count {
		return 0, false, errTruncated
	}
	for _, b := range p.rest[2 : 2+count] {
		length = length<<8 | int(b)
	}
	if length < 0x80 || count == 2 && length < 0x100 {
		return 0, false, errors.New("a length that is longer than need be")
	}
	p.rest = p.rest[2+count:]
	return length, false, nil
}

// indefinite reads children up to the end-of-contents octets.
func (p *parser) indefinite(e element, depth int) (element, error) {
	if e.tag&constructed == 0 {
		return element{}, fmt.Errorf("a primitive element (%#x) of indefinite length", e.tag)
	}
	for {
		if len(p.rest) >= 2 && p.rest[0] == 0 && p.rest[1] == 0 {
			p.rest = p.rest[2:]
			return e, nil
		}
		child, err := p.element(depth + 1)
		if err != nil {
			return element{}, err
		}
		e.children = append(e.children, child)
	}
}

// fields returns the children of an element that must have this tag and so many children.
func (e element) fields(what string, tag byte, count int) ([]element, error) {
	if e.tag != tag || len(e.children) != count {
		return nil, fmt.Errorf("%s: tag %#x with %d fields, not %#x with %d", what, e.tag, len(e.children), tag, count)
	}
	return e.children, nil
}

// bytes returns the content of a primitive element that must have this tag.
func (e element) bytes(what string, tag byte) ([]byte, error) {
	if e.tag != tag {
		return nil, fmt.Errorf("%s: tag %#x, not %#x", what, e.tag, tag)
	}
	return e.content, nil
}

// octets returns an octet string under an implicit tag: in one piece, or as a constructed one in pieces, which are
// themselves primitive.
func (e element) octets(what string, tag byte) ([]byte, error) {
	if e.tag == tag {
		return e.content, nil
	}
	if e.tag != tag|constructed {
		return nil, fmt.Errorf("%s: tag %#x, not %#x", what, e.tag, tag)
	}
	var all []byte
	for _, piece := range e.children {
		part, err := piece.bytes(what, tagOctetString)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}
