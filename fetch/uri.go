package fetch

import (
	"encoding/base64"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Limits of a URI, which reaches this program from whoever may write an InferenceService.
const (
	maxURI      = 8 << 10 // bytes
	maxPatterns = 64      // include and exclude together
)

// sealedPrefix marks the URI of a model in the sealed format; the rest is an ordinary URI.
const sealedPrefix = "sealed+"

// URI says where a sealed model is and what the caller demands of it.
//
//	sealed+s3://bucket/prefix    sealed+file:///path    sealed+https://host/path
type URI struct {
	Scheme string // "s3", "file" or "https"
	Host   string // bucket or ARN of an access point, or host with port; empty for files
	Path   string // prefix or path without a trailing slash; a file's is absolute, a bucket's has no leading slash
	Demand Demand
}

// Demand is the query of a URI: pins and patterns. It may only tighten what the configuration demands.
type Demand struct {
	Version    uint64   // exact version; 0 = any
	MinVersion uint64   // lowest version; 0 = any
	MDKID      []byte   // 32 bytes, or nil = any
	Include    []string // globs; empty = all
	Exclude    []string // globs
}

// bucketName is the shape of a bucket's name, wide enough for S3's clones and for access point aliases.
var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$`)

// accessPoint is the ARN of an access point or of a multi-region one, which stands where a bucket does.
var accessPoint = regexp.MustCompile(
	`^s3://(arn:aws[a-z-]{0,10}:s3[a-z-]{0,20}:[a-z0-9-]{0,32}:[0-9]{12}:accesspoint[:/][A-Za-z0-9.-]{1,64})((?:[/?#].*)?)$`)

// String returns the URI without its query.
func (u URI) String() string { return sealedPrefix + u.location() }

// location is the ordinary URI inside.
func (u URI) location() string {
	switch {
	case u.Scheme == "file":
		return "file://" + u.Path
	case u.Path == "":
		return u.Scheme + "://" + u.Host
	default:
		return u.Scheme + "://" + u.Host + "/" + strings.TrimPrefix(u.Path, "/")
	}
}

// ParseURI parses the URI of a sealed model. Errors are of kind fault.Usage.
func ParseURI(s string) (URI, error) {
	bare, sealed := strings.CutPrefix(s, sealedPrefix)
	if !sealed {
		return URI{}, fault.New(fault.Usage,
			"a sealed model's URI is sealed+s3://bucket/prefix, sealed+file:///path or sealed+https://host/path",
			"%s is not the URI of a sealed model", quote(s))
	}
	return parse(s, bare)
}

// ParseDestination parses where a model is published: a directory, file:///path, s3://bucket/prefix, or the sealed+
// forms of the latter two. Errors are of kind fault.Usage.
func ParseDestination(s string) (URI, error) {
	bare := strings.TrimPrefix(s, sealedPrefix)
	if !strings.Contains(bare, "://") {
		path, err := filepath.Abs(bare)
		if err != nil || bare == "" {
			return URI{}, usage(s, "is not a directory")
		}
		return URI{Scheme: "file", Path: path}, nil
	}
	u, err := parse(s, bare)
	if err != nil {
		return URI{}, err
	}
	if !u.Demand.empty() {
		return URI{}, usage(s, "has a query, and a destination takes none")
	}
	if u.Scheme == "https" {
		return URI{}, usage(s, "cannot be published to: use a directory, file:// or s3://")
	}
	return u, nil
}

func (d Demand) empty() bool {
	return d.Version == 0 && d.MinVersion == 0 && d.MDKID == nil && len(d.Include)+len(d.Exclude) == 0
}

func parse(whole, bare string) (URI, error) {
	if len(bare) > maxURI {
		return URI{}, usage(whole, "is longer than %d bytes", maxURI)
	}
	bucketARN := accessPoint.FindStringSubmatch(bare)
	if bucketARN != nil { // its colons do not parse as a host
		bare = "s3://arn" + bucketARN[2]
	}
	parsed, err := url.Parse(bare)
	switch {
	case err != nil:
		return URI{}, usage(whole, "does not parse")
	case parsed.User != nil:
		return URI{}, usage("the URI", "carries a user or password: credentials do not belong into a URI")
	case parsed.Fragment != "" || parsed.Opaque != "" || strings.HasSuffix(bare, "#"):
		return URI{}, usage(whole, "has a fragment or no //")
	}
	u := URI{Scheme: parsed.Scheme, Host: parsed.Host, Path: strings.TrimRight(parsed.Path, "/")}
	if bucketARN != nil {
		u.Host = bucketARN[1]
	}
	if err := u.place(whole); err != nil {
		return URI{}, err
	}
	u.Demand, err = parseDemand(whole, parsed.RawQuery)
	return u, err
}

// place checks host and path by scheme and brings the path into its one form.
func (u *URI) place(whole string) error {
	for element := range strings.SplitSeq(strings.TrimPrefix(u.Path, "/"), "/") {
		if element == "." || element == ".." || strings.ContainsAny(element, "\x00\\") || element == "" && u.Path != "" {
			return usage(whole, "has a path element %s", quote(element))
		}
	}
	switch u.Scheme {
	case "s3":
		u.Path = strings.TrimPrefix(u.Path, "/")
		if !bucketName.MatchString(u.Host) && !strings.HasPrefix(u.Host, "arn:") {
			return usage(whole, "names no bucket: sealed+s3://bucket/prefix")
		}
	case "https":
		if u.Host == "" {
			return usage(whole, "names no host")
		}
	case "file":
		if u.Host != "" || u.Path == "" {
			return usage(whole, "names no absolute path: three slashes, as in sealed+file:///path")
		}
	default:
		return usage(whole, "has the scheme %s; known are s3, https and file", quote(u.Scheme))
	}
	return nil
}

func parseDemand(whole, query string) (Demand, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return Demand{}, usage(whole, "has a query that does not parse")
	}
	var d Demand
	for name, list := range values {
		switch name {
		case "include":
			d.Include = list
			continue
		case "exclude":
			d.Exclude = list
			continue
		}
		if len(list) != 1 {
			return Demand{}, usage(whole, "says %s more than once", name)
		}
		if err := d.set(name, list[0]); err != nil {
			return Demand{}, usage(whole, "%s", err.Error())
		}
	}
	if len(d.Include)+len(d.Exclude) > maxPatterns {
		return Demand{}, usage(whole, "has more than %d patterns", maxPatterns)
	}
	return d, nil
}

func (d *Demand) set(name, value string) (err error) {
	switch name {
	case "version":
		d.Version, err = ParseVersion(value)
	case "min-version":
		d.MinVersion, err = ParseVersion(value)
	case "mdk-id":
		d.MDKID, err = ParseMDKID(value)
	default:
		return fault.New(fault.Usage, "", "has an unknown query parameter %s; "+
			"known are version, min-version, mdk-id, include and exclude", quote(name))
	}
	return err
}

// ParseVersion parses a model's version: a decimal number from 1 to 2^53-1 without leading zeros.
func ParseVersion(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 53)
	if err != nil || v == 0 || strconv.FormatUint(v, 10) != s {
		return 0, fault.New(fault.Usage, "", "the version %s is not a decimal number from 1 to 2^53-1", quote(s))
	}
	return v, nil
}

// ParseMDKID parses a pinned mdk_id: 32 bytes in base64url without padding.
func ParseMDKID(s string) ([]byte, error) {
	id, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(id) != 32 {
		return nil, fault.New(fault.Usage, "", "the mdk-id %s is not 32 bytes in base64url without padding", quote(s))
	}
	return id, nil
}

func usage(subject, format string, args ...any) error {
	return fault.New(fault.Usage, "see `sealfetch help` for the forms of a URI",
		"%s "+format, append([]any{quote(subject)}, args...)...)
}

// quote shows hostile text on one line and within bounds.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
