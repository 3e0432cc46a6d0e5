package main

import (
	"context"
	"strings"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/keybroker"
)

const (
	wrapUsage  = "`WRAP`, who may release the key: jwk:FILE (a local KEK or its public half); repeatable"
	trustUsage = "`PATTERN` of a key that may open models: jwk:FILE; repeatable"
	jwkPrefix  = "jwk:"
)

// keyring holds the local keys of one command, to be wiped at its end.
type keyring []*keyfile.KEK

func (k *keyring) wipe() {
	for _, kek := range *k {
		kek.Wipe()
	}
}

// add parses a key, which is zeroed where it was.
func (k *keyring) add(jwk []byte) (*keybroker.Local, error) {
	kek, err := keyfile.ParseKEK(jwk)
	if err != nil {
		return nil, err
	}
	*k = append(*k, kek)
	return keybroker.NewLocal(kek), nil
}

func (k *keyring) addFile(flagName, path string) (*keybroker.Local, error) {
	jwk, err := readFile(flagName, path, keyfile.MaxSize)
	if err != nil {
		return nil, err
	}
	local, err := k.add(jwk)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "--%s %s%s: %w", flagName, jwkPrefix, path, err)
	}
	return local, nil
}

// brokers makes a broker of every trusted key.
func (s *settings) brokers() (brokers []keybroker.Broker, wipe func(), err error) {
	var keys keyring
	defer func() {
		if err != nil {
			keys.wipe()
		}
	}()
	for _, pattern := range s.reading.trustKeys {
		path, ok := strings.CutPrefix(pattern, jwkPrefix)
		if !ok {
			return nil, nil, fault.New(fault.Usage, "jwk:FILE is known", "--trust-key %q names no kind of key that this version knows", pattern)
		}
		local, err := keys.addFile("trust-key", path)
		if err != nil {
			return nil, nil, err
		}
		brokers = append(brokers, local)
	}
	if content := s.program.env[contents["trust-key"]]; content != "" {
		local, err := keys.add([]byte(content))
		if err != nil {
			return nil, nil, err
		}
		brokers = append(brokers, local)
	}
	return brokers, keys.wipe, nil
}

// wrappers makes one of every --wrap.
func (s *settings) wrappers(_ context.Context, wraps list) (all []keybroker.Wrapper, wipe func(), err error) {
	var keys keyring
	defer func() {
		if err != nil {
			keys.wipe()
		}
	}()
	for _, wrap := range wraps {
		path, ok := strings.CutPrefix(wrap, jwkPrefix)
		if !ok {
			return nil, nil, fault.New(fault.Usage, "jwk:FILE is known", "--wrap %q names no kind of key that this version knows", wrap)
		}
		local, err := keys.addFile("wrap", path)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, local)
	}
	return all, keys.wipe, nil
}
