package main

import (
	"context"
	"slices"
	"strings"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/keybroker"
)

const (
	wrapUsage = "`WRAP`, who may release the key: aws-kms:ARN of a key or alias, or jwk:FILE (a local KEK or its public half); " +
		"repeatable"
	trustUsage = "`PATTERN` of a key that may open models: the ARN of a KMS key or alias, in which * stands for anything but a " +
		"slash, or jwk:FILE; repeatable"
	jwkPrefix     = "jwk:"
	kmsPrefix     = "arn:"
	wrapKMSPrefix = "aws-kms:"
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

// trustsKMS reports whether a key of KMS may open models.
func (s *settings) trustsKMS() bool {
	isKMS := func(pattern string) bool { return strings.HasPrefix(pattern, kmsPrefix) }
	return slices.ContainsFunc(s.reading.trustKeys, isKMS)
}

// brokers makes a broker of every trusted key.
func (s *settings) brokers(ctx context.Context) (brokers []keybroker.Broker, wipe func(), err error) {
	var keys keyring
	defer func() {
		if err != nil {
			keys.wipe()
		}
	}()
	var kmsKeys []string
	for _, pattern := range s.reading.trustKeys {
		switch {
		case strings.HasPrefix(pattern, jwkPrefix):
			local, err := keys.addFile("trust-key", strings.TrimPrefix(pattern, jwkPrefix))
			if err != nil {
				return nil, nil, err
			}
			brokers = append(brokers, local)
		case strings.HasPrefix(pattern, kmsPrefix):
			kmsKeys = append(kmsKeys, pattern)
		default:
			return nil, nil, unknownKey("--trust-key", pattern, "jwk:FILE and arn:aws:kms:… are known")
		}
	}
	if content := s.program.env[contents["trust-key"]]; content != "" {
		local, err := keys.add([]byte(content))
		if err != nil {
			return nil, nil, err
		}
		brokers = append(brokers, local)
	}
	if len(kmsKeys) > 0 {
		kms, err := s.kmsBroker(ctx, kmsKeys)
		if err != nil {
			return nil, nil, err
		}
		brokers = append(brokers, kms)
	}
	return brokers, keys.wipe, nil
}

// wrappers makes one of every --wrap.
func (s *settings) wrappers(ctx context.Context, wraps list) (all []keybroker.Wrapper, wipe func(), err error) {
	var keys keyring
	defer func() {
		if err != nil {
			keys.wipe()
		}
	}()
	for _, wrap := range wraps {
		var wrapper keybroker.Wrapper
		kind, rest, _ := strings.Cut(wrap, ":")
		switch kind + ":" {
		case jwkPrefix:
			wrapper, err = keys.addFile("wrap", rest)
		case wrapKMSPrefix:
			wrapper, err = s.kmsWrapper(ctx, rest)
		default:
			err = unknownKey("--wrap", wrap, "jwk:FILE and aws-kms:ARN are known")
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, wrapper)
	}
	return all, keys.wipe, nil
}

func unknownKey(flagName, value, hint string) error {
	return fault.New(fault.Usage, hint, "%s %q names no kind of key that this version knows", flagName, value)
}
