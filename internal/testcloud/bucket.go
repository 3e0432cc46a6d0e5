package testcloud

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

// Bucket is an S3 bucket. It is safe for concurrent use.
type Bucket struct {
	Name   string
	Region string
	Owner  *Account

	cloud *Cloud

	mu            sync.Mutex
	versioned     bool
	requesterPays bool
	policy        *iam.Policy
	key           *KMSKey
	objects       map[string][]*object // by key; oldest version first, one version at most where not versioned
	uploads       map[string]*upload   // by upload id
}

// object is one version of one key. It never changes.
type object struct {
	content      content
	etag         string // with its quotes
	version      string // "null" in a bucket without versions
	modified     time.Time
	header       http.Header       // Content-Type, x-amz-meta-* and the like, as uploaded
	checksums    map[string]string // header name -> base64, as x-amz-checksum-mode asks for
	partSizes    []int64           // of a multipart upload; nil otherwise
	deleteMarker bool
}

// NewBucket makes a bucket of this account. A name that exists panics: it is a mistake in the test.
func (a *Account) NewBucket(name, region string) *Bucket {
	b := &Bucket{
		Name: name, Region: region, Owner: a, cloud: a.cloud,
		objects: map[string][]*object{}, uploads: map[string]*upload{},
	}
	a.cloud.mu.Lock()
	defer a.cloud.mu.Unlock()
	if a.cloud.buckets[name] != nil {
		panic("testcloud: bucket exists: " + name)
	}
	a.cloud.buckets[name] = b
	return b
}

// SetVersioning keeps every version of every key from now on, or only the last one.
func (b *Bucket) SetVersioning(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.versioned = on
}

// SetRequesterPays refuses callers of other accounts that do not send x-amz-request-payer.
func (b *Bucket) SetRequesterPays(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requesterPays = on
}

// SetPolicy replaces the bucket policy. An empty document removes it.
func (b *Bucket) SetPolicy(document string) error {
	var policy *iam.Policy
	if document != "" {
		var err error
		if policy, err = iam.Parse(iam.Resource, document); err != nil {
			return fmt.Errorf("policy of bucket %s: %w", b.Name, err)
		}
		arn := "arn:aws:s3:::" + b.Name
		for _, resource := range policy.Resources() {
			if resource != arn && !strings.HasPrefix(resource, arn+"/") {
				return fmt.Errorf("policy of bucket %s: invalid resource %q", b.Name, resource)
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.policy = policy
	return nil
}

func (b *Bucket) bucketPolicy() *iam.Policy {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policy
}

// KMSKey is the key that S3 encrypts a bucket's objects under. Nothing is encrypted here, but its policy is evaluated.
type KMSKey struct {
	ARN    string
	Owner  string      // account id
	Policy *iam.Policy // of the key, kind iam.Resource
}

// EncryptWith makes reading and writing objects take kms:Decrypt and kms:GenerateDataKey on a key, and new ETags
// opaque, as S3 has it with SSE-KMS. Nil ends it.
func (b *Bucket) EncryptWith(key *KMSKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.key = key
}

func (b *Bucket) kmsKey() *KMSKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.key
}

// Version names one stored version of an object.
type Version struct {
	ETag      string // with its quotes
	VersionID string // empty in a bucket without versions
}

// Put stores an object; data must not change afterwards.
func (b *Bucket) Put(key string, data []byte) Version {
	o := &object{content: bytesContent(data), header: http.Header{}}
	if !b.cloud.opts.OpaqueETags {
		sum := md5.Sum(data)
		o.etag = `"` + hex.EncodeToString(sum[:]) + `"`
	}
	return b.store(key, o)
}

// PutFile stores an object whose bytes stay in the file at path, which must not change. Its ETag is opaque.
func (b *Bucket) PutFile(key, path string) (Version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Version{}, fmt.Errorf("storing %s: %w", key, err)
	}
	return b.store(key, &object{content: fileContent{path, info.Size()}, header: http.Header{}}), nil
}

// PutReaderAt stores an object of size bytes that are read from r at each request. Its ETag is opaque.
func (b *Bucket) PutReaderAt(key string, r io.ReaderAt, size int64) Version {
	return b.store(key, &object{content: lazyContent{r, size}, header: http.Header{}})
}

// Get returns the current version's bytes, and false where there is none.
func (b *Bucket) Get(key string) ([]byte, bool) {
	o := b.current(key)
	if o == nil {
		return nil, false
	}
	data, err := io.ReadAll(io.NewSectionReader(o.content, 0, o.content.Size()))
	return data, err == nil
}

// Keys lists the keys of current versions in S3's order.
func (b *Bucket) Keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for key, versions := range b.objects {
		if !versions[len(versions)-1].deleteMarker {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Uploads counts the multipart uploads that are neither completed nor aborted.
func (b *Bucket) Uploads() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.uploads)
}

// Delete removes a key with all its versions.
func (b *Bucket) Delete(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, key)
}

func (b *Bucket) store(key string, o *object) Version {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.storeLocked(key, o)
}

func (b *Bucket) storeLocked(key string, o *object) Version {
	o.modified = b.cloud.Now().UTC().Truncate(time.Second)
	if o.etag == "" || b.key != nil && !strings.Contains(o.etag, "-") {
		o.etag = `"` + randomETag() + `"`
	}
	if !b.versioned {
		o.version = "null"
		b.objects[key] = []*object{o}
		return Version{ETag: o.etag}
	}
	o.version = randomID(32)
	b.objects[key] = append(b.objects[key], o)
	return Version{ETag: o.etag, VersionID: o.version}
}

// current returns the key's latest version, or nil where there is none or it is a delete marker.
func (b *Bucket) current(key string) *object {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.currentLocked(key)
}

func (b *Bucket) currentLocked(key string) *object {
	versions := b.objects[key]
	if len(versions) == 0 || versions[len(versions)-1].deleteMarker {
		return nil
	}
	return versions[len(versions)-1]
}

// find returns the version asked for, or the current one where id is empty.
func (b *Bucket) find(key, id string) (*object, *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	versions := b.objects[key]
	if id == "" {
		if o := b.currentLocked(key); o != nil {
			return o, nil
		}
		err := &Error{
			Status: 404, Code: "NoSuchKey", Message: "The specified key does not exist.",
			Detail: map[string]string{"Key": key}, Header: http.Header{},
		}
		if len(versions) > 0 {
			err.Header.Set("X-Amz-Delete-Marker", "true")
		}
		return nil, err
	}
	i := slices.IndexFunc(versions, func(o *object) bool { return o.version == id })
	switch {
	case i < 0:
		return nil, &Error{
			Status: 404, Code: "NoSuchVersion", Message: "The specified version does not exist.",
			Detail: map[string]string{"Key": key, "VersionId": id},
		}
	case versions[i].deleteMarker:
		return nil, &Error{
			Status: 405, Code: "MethodNotAllowed",
			Message: "The specified method is not allowed against this resource.",
			Header:  http.Header{"X-Amz-Delete-Marker": {"true"}},
		}
	}
	return versions[i], nil
}

// remove deletes as DeleteObject does: one version for good, or the key behind a delete marker where versions are kept.
// It returns the version id to answer and whether it is a marker's.
func (b *Bucket) remove(key, id string) (version string, marker bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	versions := b.objects[key]
	switch {
	case id != "":
		versions = slices.DeleteFunc(slices.Clone(versions), func(o *object) bool {
			marker = marker || o.version == id && o.deleteMarker
			return o.version == id
		})
	case b.versioned:
		m := &object{deleteMarker: true, content: bytesContent(nil), header: http.Header{}}
		id, marker = b.storeLocked(key, m).VersionID, true
		versions = b.objects[key]
	default:
		versions = nil
	}
	if b.objects[key] = versions; len(versions) == 0 {
		delete(b.objects, key)
	}
	return id, marker
}

// randomETag looks like an MD5 and is none.
func randomETag() string {
	sum := md5.Sum([]byte(randomID(32)))
	return hex.EncodeToString(sum[:])
}
