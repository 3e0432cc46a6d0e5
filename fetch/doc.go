// Package fetch reads sealed models from where they are stored, and stores them there when they are published.
//
// It knows URIs, objects, ranges and retries; it knows no keys and no format. A Source reads objects, a Store writes
// them; Stream moves planned parts of many objects to a Sink over one budget of connections, and Publish moves them the
// other way. What a server says about sizes and ranges is checked against the plan, never used to make one.
package fetch
