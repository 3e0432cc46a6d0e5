package testcloud

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	maxParts       = 10_000
	maxCompleteXML = 4 << 20
)

// upload is a multipart upload in progress. Its bucket's mutex guards it.
type upload struct {
	key          string
	header       http.Header
	algorithm    string // of the checksum, such as "CRC32"; empty where the client named none
	fullObject   bool   // the checksum covers the object, not the parts' checksums
	parts        map[int]*part
	checksumName string // header name of the algorithm
}

type part struct {
	content   content
	etag      string
	md5       []byte
	checksums map[string]string
}

func (c *call) putObject() *Error {
	if err := c.writeCondition(); err != nil {
		return err
	}
	body, err := c.receive()
	if err != nil {
		return err
	}
	o := &object{content: body.content, etag: body.etag(), header: c.objectMetadata(), checksums: body.checksums}
	return c.commit(o, func(Version) { c.reply(http.StatusOK) })
}

// commit stores an object unless the write's condition has failed by now, and answers.
func (c *call) commit(o *object, answer func(Version)) *Error {
	c.bucket.mu.Lock()
	err := c.writeConditionLocked()
	var v Version
	if err == nil {
		v = c.bucket.storeLocked(c.Key, o)
	}
	c.bucket.mu.Unlock()
	if err != nil {
		return err
	}
	c.w.Header().Set("Etag", o.etag)
	if v.VersionID != "" {
		c.w.Header().Set("X-Amz-Version-Id", v.VersionID)
	}
	answer(v)
	return nil
}

// writeCondition evaluates If-None-Match: * and If-Match of a write.
func (c *call) writeCondition() *Error {
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	return c.writeConditionLocked()
}

func (c *call) writeConditionLocked() *Error {
	none, match := c.r.Header.Get("If-None-Match"), c.r.Header.Get("If-Match")
	existing := c.bucket.currentLocked(c.Key)
	condition := ""
	switch {
	case none != "" && none != "*":
		return refuse(501, "NotImplemented",
			"A header you provided implies functionality that is not implemented")
	case none == "*" && existing != nil:
		condition = "If-None-Match"
	case match != "" && existing == nil:
		return refuse(404, "NoSuchKey", "The specified key does not exist.")
	case match != "" && !etagListed(match, existing.etag):
		condition = "If-Match"
	default:
		return nil
	}
	return &Error{
		Status: 412, Code: "PreconditionFailed",
		Message: "At least one of the pre-conditions you specified did not hold",
		Detail:  map[string]string{"Condition": condition},
	}
}

// objectMetadata keeps the headers that S3 stores with an object.
func (c *call) objectMetadata() http.Header {
	kept := http.Header{}
	for name, values := range c.r.Header {
		switch lower := strings.ToLower(name); lower {
		case "content-type", "cache-control", "content-disposition", "content-language", "expires":
			kept[name] = values
		case "content-encoding":
			var encodings []string
			for e := range strings.SplitSeq(strings.Join(values, ","), ",") {
				if e = strings.TrimSpace(e); e != "" && e != "aws-chunked" {
					encodings = append(encodings, e)
				}
			}
			if encodings != nil {
				kept.Set(name, strings.Join(encodings, ","))
			}
		default:
			if strings.HasPrefix(lower, "x-amz-meta-") {
				kept[name] = values
			}
		}
	}
	return kept
}

func (c *call) createUpload() *Error {
	up := &upload{
		key: c.Key, header: c.objectMetadata(), parts: map[int]*part{},
		algorithm: c.r.Header.Get("X-Amz-Checksum-Algorithm"),
	}
	if up.algorithm != "" {
		if newChecksum(up.algorithm) == nil {
			return refuse(400, "InvalidRequest", "checksum algorithm not known: "+up.algorithm)
		}
		up.checksumName = http.CanonicalHeaderKey(checksumHeader + up.algorithm)
		up.fullObject = up.algorithm == "CRC64NVME" || c.r.Header.Get("X-Amz-Checksum-Type") == "FULL_OBJECT"
		c.w.Header().Set("X-Amz-Checksum-Algorithm", up.algorithm)
	}
	id := randomID(40)
	c.bucket.mu.Lock()
	c.bucket.uploads[id] = up
	c.bucket.mu.Unlock()
	type InitiateMultipartUploadResult struct{ Bucket, Key, UploadId string }
	c.replyXML(http.StatusOK, InitiateMultipartUploadResult{c.Bucket, c.Key, id})
	return nil
}

// upload returns the multipart upload that the request names.
func (c *call) upload() (*upload, *Error) {
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	up := c.bucket.uploads[c.query.Get("uploadId")]
	if up == nil || up.key != c.Key {
		return nil, refuse(404, "NoSuchUpload",
			"The specified upload does not exist. The upload ID may be invalid, "+
				"or the upload may have been aborted or completed.")
	}
	return up, nil
}

func (c *call) uploadPart() *Error {
	up, err := c.upload()
	if err != nil {
		return err
	}
	if c.PartNumber < 1 || c.PartNumber > maxParts {
		return refuse(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
	}
	body, err := c.receive()
	if err != nil {
		return err
	}
	if len(body.checksums) > 0 && up.algorithm != "" && body.checksums[up.checksumName] == "" {
		return refuse(400, "InvalidRequest", "Checksum Type mismatch occurred, expected "+up.algorithm)
	}
	p := &part{content: body.content, etag: body.etag(), md5: body.md5, checksums: body.checksums}
	c.bucket.mu.Lock()
	up.parts[c.PartNumber] = p
	c.bucket.mu.Unlock()
	c.w.Header().Set("Etag", p.etag)
	c.reply(http.StatusOK)
	return nil
}

func (c *call) abortUpload() *Error {
	if _, err := c.upload(); err != nil {
		return err
	}
	c.bucket.mu.Lock()
	delete(c.bucket.uploads, c.query.Get("uploadId"))
	c.bucket.mu.Unlock()
	c.reply(http.StatusNoContent)
	return nil
}

// listedPart is a part in ListParts' answer.
type listedPart struct {
	PartNumber int
	ETag       string
	Size       int64
}

func (c *call) listParts() *Error {
	up, err := c.upload()
	if err != nil {
		return err
	}
	type ListPartsResult struct {
		Bucket, Key, UploadId string
		IsTruncated           bool
		Part                  []listedPart
	}
	result := ListPartsResult{Bucket: c.Bucket, Key: c.Key, UploadId: c.query.Get("uploadId")}
	c.bucket.mu.Lock()
	for _, n := range slices.Sorted(maps.Keys(up.parts)) {
		result.Part = append(result.Part, listedPart{n, up.parts[n].etag, up.parts[n].content.Size()})
	}
	c.bucket.mu.Unlock()
	c.replyXML(http.StatusOK, result)
	return nil
}

// completedPart is a part in the client's list.
type completedPart struct {
	PartNumber int
	ETag       string
}

func (c *call) completeUpload() *Error {
	up, err := c.upload()
	if err != nil {
		return err
	}
	if err := c.writeCondition(); err != nil {
		return err
	}
	listed, err := c.completedParts()
	if err != nil {
		return err
	}
	o, err := c.assemble(up, listed)
	if err != nil {
		return err
	}
	type CompleteMultipartUploadResult struct{ Location, Bucket, Key, ETag string }
	return c.commit(o, func(Version) {
		c.bucket.mu.Lock()
		delete(c.bucket.uploads, c.query.Get("uploadId"))
		c.bucket.mu.Unlock()
		c.replyXML(http.StatusOK, CompleteMultipartUploadResult{c.s3.url + c.r.URL.Path, c.Bucket, c.Key, o.etag})
	})
}

func (c *call) completedParts() ([]completedPart, *Error) {
	body, failure := c.receive()
	if failure != nil {
		return nil, failure
	}
	var list struct {
		XMLName xml.Name        `xml:"CompleteMultipartUpload"`
		Part    []completedPart `xml:"Part"`
	}
	err := xml.NewDecoder(io.NewSectionReader(body.content, 0, min(body.content.Size(), maxCompleteXML))).Decode(&list)
	if err != nil || len(list.Part) == 0 || len(list.Part) > maxParts {
		return nil, refuse(400, "MalformedXML", "The XML you provided was not well-formed or did not validate.")
	}
	return list.Part, nil
}

// assemble checks the client's list against the parts received and joins them.
func (c *call) assemble(up *upload, listed []completedPart) (*object, *Error) {
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	o := &object{header: up.header, checksums: map[string]string{}}
	var whole joined
	var md5s, sums []byte
	for i, want := range listed {
		p := up.parts[want.PartNumber]
		switch {
		case i > 0 && want.PartNumber <= listed[i-1].PartNumber:
			return nil, refuse(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
		case p == nil || strings.Trim(p.etag, `"`) != strings.Trim(want.ETag, `"`):
			return nil, &Error{
				Status: 400, Code: "InvalidPart",
				Message: "One or more of the specified parts could not be found, or its entity tag did not match.",
				Detail:  map[string]string{"PartNumber": strconv.Itoa(want.PartNumber)},
			}
		case i < len(listed)-1 && p.content.Size() < c.s3.cloud.opts.MinPartSize:
			return nil, refuse(400, "EntityTooSmall",
				"Your proposed upload is smaller than the minimum allowed object size")
		}
		sum, _ := base64.StdEncoding.DecodeString(p.checksums[up.checksumName])
		whole, md5s, sums = append(whole, p.content), append(md5s, p.md5...), append(sums, sum...)
		o.partSizes = append(o.partSizes, p.content.Size())
	}
	o.content = whole
	if o.etag = randomETag(); !c.s3.cloud.opts.OpaqueETags {
		sum := md5.Sum(md5s)
		o.etag = hex.EncodeToString(sum[:])
	}
	o.etag = fmt.Sprintf(`"%s-%d"`, o.etag, len(listed))
	return o, c.objectChecksum(up, o, sums)
}

// objectChecksum gives a multipart object its checksum: over the object, or over the parts' checksums with the number
// of parts behind it. Where the client sent one for the object it must agree.
func (c *call) objectChecksum(up *upload, o *object, partSums []byte) *Error {
	if up.algorithm == "" {
		return nil
	}
	h := newChecksum(up.algorithm)
	suffix := fmt.Sprintf("-%d", len(o.partSizes))
	if up.fullObject {
		suffix = ""
		if _, err := io.Copy(h, io.NewSectionReader(o.content, 0, o.content.Size())); err != nil {
			return InternalError()
		}
	} else {
		h.Write(partSums)
	}
	value := base64.StdEncoding.EncodeToString(h.Sum(nil)) + suffix
	if sent := c.r.Header.Get(up.checksumName); sent != "" && sent != value {
		return refuse(400, "BadDigest", "The "+up.algorithm+" you specified did not match.")
	}
	o.checksums[up.checksumName] = value
	return nil
}
