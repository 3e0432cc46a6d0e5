package main

import (
	"context"
	"fmt"
	"os"
)

// link is a pair of virtual interfaces, one of them in a network namespace of its own, whose far end sends no faster
// than 10 Gbit/s.
type link struct{ namespace, near string }

func (b *bench) makeLink() error {
	if b.link != nil {
		return nil
	}
	l := &link{namespace: fmt.Sprintf("sfbench%d", os.Getpid()), near: fmt.Sprintf("sfb%d", os.Getpid()%100000)}
	far := l.near + "x"
	ctx := context.Background()
	for _, argv := range [][]string{
		{"ip", "netns", "add", l.namespace},
		{"ip", "link", "add", l.near, "type", "veth", "peer", "name", far, "netns", l.namespace},
		{"ip", "addr", "add", "10.217.0.1/30", "dev", l.near},
		{"ip", "link", "set", l.near, "up"},
		{"ip", "netns", "exec", l.namespace, "ip", "addr", "add", "10.217.0.2/30", "dev", far},
		{"ip", "netns", "exec", l.namespace, "ip", "link", "set", far, "up"},
		{"ip", "netns", "exec", l.namespace, "ip", "link", "set", "lo", "up"},
		{"ip", "netns", "exec", l.namespace, "tc", "qdisc", "add", "dev", far, "root", "tbf",
			"rate", "10gbit", "burst", "2mb", "latency", "20ms"},
	} {
		if err := quietly(ctx, argv...); err != nil {
			l.remove()
			return fmt.Errorf("a link takes root, ip and tc: %v: %w", argv, err)
		}
	}
	b.link = l
	return nil
}

func (l *link) inside() []string { return []string{"ip", "netns", "exec", l.namespace} }

func (l *link) serverAddr() string { return "10.217.0.2:0" }

// remove takes the interfaces with it.
func (l *link) remove() { _ = quietly(context.Background(), "ip", "netns", "del", l.namespace) }
