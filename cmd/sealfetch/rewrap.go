package main

import (
	"context"
	"fmt"
	"io"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/keybroker"
)

// setupRewrap is rotation: the model is opened with --trust-key once more and gets the wraps of --wrap.
func setupRewrap(s *settings) runner {
	var wraps list
	s.flags.Var(&wraps, "wrap", wrapUsage)
	keep := s.flags.Bool("keep", false, "keep the old wraps beside the new ones")
	s.readFlags()
	s.storeFlags()
	return func(ctx context.Context, args []string, out io.Writer) error {
		uri, err := s.oneURI(args)
		if err != nil {
			return err
		}
		if len(wraps) == 0 {
			return fault.New(fault.Usage, "say who may release the key from now on: --wrap", "--wrap is missing")
		}
		return s.rewrap(ctx, uri, wraps, *keep, out)
	}
}

func (s *settings) rewrap(ctx context.Context, uri fetch.URI, wraps list, keep bool, out io.Writer) error {
	s.scope = []scoped{{uri: uri, write: true, wraps: wraps}}
	reader, wipe, err := s.reader(ctx)
	if err != nil {
		return err
	}
	defer wipe()
	if err := requireTrust(reader); err != nil {
		return err
	}
	opener, err := s.opener(reader.Limits.Connections)
	if err != nil {
		return err
	}
	if uri.Scheme == "https" {
		return fault.New(fault.Usage, "rewrap it where it is stored: file:// or s3://", "%s cannot be written to", uri)
	}
	store, err := opener.Store(ctx, uri)
	if err != nil {
		return err
	}
	defer store.Close()
	wrappers, wipeWraps, err := s.wrappers(ctx, wraps)
	if err != nil {
		return err
	}
	defer wipeWraps()
	envelope, err := sealfetch.Rewrap(ctx, sealfetch.RewrapJob{URI: uri, Reader: reader, Store: store, Wrappers: wrappers, Keep: keep})
	if err != nil {
		return err
	}
	for _, wrap := range envelope.Wraps {
		fmt.Fprintf(out, "key: %s\n", keybroker.Wrap(wrap).Name())
	}
	_, err = fmt.Fprintf(out, "rewrapped: %s version %d, mdk-id %s\n", envelope.Model, envelope.Version, envelope.MDKID)
	return err
}
