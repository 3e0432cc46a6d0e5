// Package cms opens the messages in which AWS KMS gives a key to an attested recipient (CiphertextForRecipient).
//
// They are CMS EnvelopedData in BER: one recipient who is named by the SHA-256 of its public key, a content key under
// RSAES-OAEP with SHA-256, and the content under AES-256-CBC. Anything else is refused. This is no general CMS reader.
//
// The format authenticates nothing: whoever knows the recipient's public key can make such a message. What comes out
// must be proven to be the right key by other means.
//
// Sources: RFC 5652 section 6, RFC 4055 section 4.1, RFC 3565.
package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/sealfetch/sealfetch/internal/secret"
)

// Object identifiers, as the content of their elements.
const (
	oidEnvelopedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" // 1.2.840.113549.1.7.3
	oidData          = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01" // 1.2.840.113549.1.7.1
	oidOAEP          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" // 1.2.840.113549.1.1.7
	oidMGF1          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" // 1.2.840.113549.1.1.8
	oidSHA256        = "\x60\x86\x48\x01\x65\x03\x04\x02\x01" // 2.16.840.1.101.3.4.2.1
	oidAES256CBC     = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a" // 2.16.840.1.101.3.4.1.42
	version2         = "\x02"
	contentKeySize   = 32
)

// errDecrypt says no more than that: which step failed is nobody's business.
var errDecrypt = errors.New("the message does not decrypt under the recipient's key")

// envelope is a message taken apart.
type envelope struct {
	recipient    []byte // subject key identifier
	encryptedKey []byte
	iv           []byte
	ciphertext   []byte
}

// Open decrypts a message for the holder of key. The result is never empty; the caller wipes it.
func Open(message []byte, key *rsa.PrivateKey) (*secret.Key, error) {
	e, err := parse(message)
	if err != nil {
		return nil, fmt.Errorf("reading CMS: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if id := sha256.Sum256(spki); !bytes.Equal(id[:], e.recipient) {
		return nil, errors.New("the message is for another key")
	}
	if len(e.encryptedKey) != key.Size() { // crypto/rsa takes a ciphertext without its leading zero bytes, too
		return nil, errDecrypt
	}
	contentKey, err := rsa.DecryptOAEP(sha256.New(), nil, key, e.encryptedKey, nil)
	if err != nil || len(contentKey) != contentKeySize {
		clear(contentKey)
		return nil, errDecrypt
	}
	defer clear(contentKey)
	return e.content(contentKey)
}

// content decrypts the content and takes its padding off (RFC 5652, section 6.3).
func (e *envelope) content(key []byte) (*secret.Key, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plaintext := make([]byte, len(e.ciphertext))
	defer clear(plaintext)
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(plaintext, e.ciphertext)
	size := len(plaintext) - int(plaintext[len(plaintext)-1])
	if !padded(plaintext) || size <= 0 {
		return nil, errDecrypt
	}
	return secret.Take(plaintext[:size])
}

// padded checks in constant time that the last n bytes are n, for an n from 1 to the block size.
func padded(plaintext []byte) bool {
	last := plaintext[len(plaintext)-aes.BlockSize:]
	n := int(last[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, aes.BlockSize)
	for i, b := range last {
		inside := subtle.ConstantTimeLessOrEq(aes.BlockSize-n, i)
		good &= subtle.ConstantTimeSelect(inside, subtle.ConstantTimeByteEq(b, byte(n)), 1)
	}
	return good == 1
}

// parse holds a message to its one form.
func parse(message []byte) (*envelope, error) {
	root, err := parseBER(message)
	if err != nil {
		return nil, err
	}
	info, err := root.fields("ContentInfo", tagSequence, 2)
	if err != nil {
		return nil, err
	}
	if err := info[0].isOID("content type", oidEnvelopedData); err != nil {
		return nil, err
	}
	wrapper, err := info[1].fields("content", tagContext0|constructed, 1)
	if err != nil {
		return nil, err
	}
	data, err := wrapper[0].fields("EnvelopedData", tagSequence, 3)
	if err != nil {
		return nil, err
	}
	if err := data[0].isVersion2("EnvelopedData"); err != nil {
		return nil, err
	}
	recipients, err := data[1].fields("recipients", tagSet, 1)
	if err != nil {
		return nil, err
	}
	e := &envelope{}
	if err := e.readRecipient(recipients[0]); err != nil {
		return nil, err
	}
	return e, e.readContent(data[2])
}

// readRecipient reads a KeyTransRecipientInfo that names the key by its identifier.
func (e *envelope) readRecipient(recipient element) error {
	fields, err := recipient.fields("recipient", tagSequence, 4)
	if err != nil {
		return err
	}
	if err := fields[0].isVersion2("recipient"); err != nil {
		return err
	}
	if e.recipient, err = fields[1].bytes("recipient's key identifier", tagContext0); err != nil {
		return err
	}
	if err := checkOAEP(fields[2]); err != nil {
		return err
	}
	e.encryptedKey, err = fields[3].bytes("encrypted key", tagOctetString)
	return err
}

// checkOAEP demands SHA-256 both as hash and inside MGF1, written out, and the empty label, left out.
func checkOAEP(algorithm element) error {
	fields, err := algorithm.fields("key encryption", tagSequence, 2)
	if err != nil {
		return err
	}
	if err := fields[0].isOID("key encryption", oidOAEP); err != nil {
		return err
	}
	parameters, err := fields[1].fields("OAEP parameters", tagSequence, 2)
	if err != nil {
		return err
	}
	hash, err := parameters[0].fields("OAEP hash", tagContext0|constructed, 1)
	if err != nil {
		return err
	}
	if err := checkSHA256("OAEP hash", hash[0]); err != nil {
		return err
	}
	mask, err := parameters[1].fields("OAEP mask generation", tagContext1|constructed, 1)
	if err != nil {
		return err
	}
	if fields, err = mask[0].fields("OAEP mask generation", tagSequence, 2); err != nil {
		return err
	}
	if err := fields[0].isOID("OAEP mask generation", oidMGF1); err != nil {
		return err
	}
	return checkSHA256("OAEP mask generation", fields[1])
}

// checkSHA256 takes the identifier with NULL parameters or with none: RFC 4055, section 2.1 asks readers for both.
func checkSHA256(what string, algorithm element) error {
	if len(algorithm.children) == 2 {
		if null := algorithm.children[1]; null.tag != tagNull || len(null.content) != 0 {
			return fmt.Errorf("%s: SHA-256 with parameters", what)
		}
		algorithm.children = algorithm.children[:1]
	}
	fields, err := algorithm.fields(what, tagSequence, 1)
	if err != nil {
		return err
	}
	return fields[0].isOID(what, oidSHA256)
}

// readContent reads the EncryptedContentInfo.
func (e *envelope) readContent(info element) error {
	fields, err := info.fields("encrypted content", tagSequence, 3)
	if err != nil {
		return err
	}
	if err := fields[0].isOID("encrypted content", oidData); err != nil {
		return err
	}
	algorithm, err := fields[1].fields("content encryption", tagSequence, 2)
	if err != nil {
		return err
	}
	if err := algorithm[0].isOID("content encryption", oidAES256CBC); err != nil {
		return err
	}
	if e.iv, err = algorithm[1].bytes("initialization vector", tagOctetString); err != nil {
		return err
	}
	if e.ciphertext, err = fields[2].octets("encrypted content", tagContext0); err != nil {
		return err
	}
	if len(e.iv) != aes.BlockSize {
		return fmt.Errorf("an initialization vector of %d bytes", len(e.iv))
	}
	if len(e.ciphertext) == 0 || len(e.ciphertext)%aes.BlockSize != 0 {
		return fmt.Errorf("encrypted content of %d bytes", len(e.ciphertext))
	}
	return nil
}

func (e element) isOID(what, want string) error {
	got, err := e.bytes(what, tagOID)
	if err == nil && string(got) != want {
		err = fmt.Errorf("%s: object identifier %x, not %x", what, got, want)
	}
	return err
}

func (e element) isVersion2(what string) error {
	got, err := e.bytes(what+" version", tagInteger)
	if err == nil && string(got) != version2 {
		err = fmt.Errorf("%s: version %x, not 2", what, got)
	}
	return err
}
