package testcloud_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// TestChecksums uploads under every algorithm and has the SDK check what comes back.
func TestChecksums(t *testing.T) {
	for _, algorithm := range []types.ChecksumAlgorithm{"CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"} {
		for _, tls := range []bool{false, true} {
			c, bucket, client := fixture(t, testcloud.Options{TLS: tls, OpaqueETags: tls})
			data := pattern(100_000)
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
				Bucket: aws.String("models"), Key: aws.String("k"), Body: bytes.NewReader(data), ChecksumAlgorithm: algorithm,
			})
			if err != nil {
				t.Fatalf("%s, TLS %v: %v", algorithm, tls, err)
			}
			in := s3.GetObjectInput{Key: aws.String("k"), ChecksumMode: types.ChecksumModeEnabled}
			if got, _, err := get(t.Context(), client, in); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, TLS %v: %d bytes, %v", algorithm, tls, len(got), err)
			}
			offset := int64(50_000)
			c.Inject(testcloud.Rule{Fault: testcloud.Fault{FlipByte: &offset}})
			if _, _, err := get(t.Context(), client, in); !strings.Contains(fmt.Sprint(err), "checksum did not match") {
				t.Errorf("%s, TLS %v: the SDK does not notice a flipped bit: %v", algorithm, tls, err)
			}
			c.ClearFaults()
			in.Range = aws.String("bytes=1-2")
			_, out, err := get(t.Context(), client, in)
			if err != nil || out.ChecksumCRC32 != nil || out.ChecksumCRC64NVME != nil {
				t.Errorf("%s, TLS %v: a range comes with a checksum: %+v, %v", algorithm, tls, out, err)
			}
			if len(bucket.Keys()) != 1 {
				t.Errorf("keys: %q", bucket.Keys())
			}
		}
	}
}

func TestWrongChecksumIsRefused(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{})
	_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String("models"), Key: aws.String("k"), Body: strings.NewReader("data"),
		ChecksumCRC64NVME: aws.String("AAAAAAAAAAA="),
	})
	if _, ok := bucket.Get("k"); code(err) != "BadDigest" || ok {
		t.Errorf("%v, stored %v", err, ok)
	}
}

func TestMultipartChecksum(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{MinPartSize: 1})
	ctx, name, key := t.Context(), aws.String("models"), aws.String("k")
	created, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: name, Key: key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
	})
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(10_000)
	var done []types.CompletedPart
	for i, part := range [][]byte{data[:7000], data[7000:]} {
		out, err := client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: name, Key: key, UploadId: created.UploadId, PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(part),
			ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
		})
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag})
	}
	list, err := client.ListParts(ctx, &s3.ListPartsInput{Bucket: name, Key: key, UploadId: created.UploadId})
	if err != nil || len(list.Parts) != 2 || *list.Parts[0].Size != 7000 {
		t.Errorf("%+v, %v", list, err)
	}
	complete := func(parts []types.CompletedPart) error {
		_, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: name, Key: key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		return err
	}
	wrong := []types.CompletedPart{{PartNumber: aws.Int32(1), ETag: aws.String(`"x"`)}, done[1]}
	for want, parts := range map[string][]types.CompletedPart{
		"InvalidPart": wrong, "InvalidPartOrder": {done[1], done[0]}, "MalformedXML": nil,
	} {
		if err := complete(parts); code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := complete(done); err != nil {
		t.Fatal(err)
	}
	if err := complete(done); code(err) != "NoSuchUpload" {
		t.Errorf("completed twice: %v", err)
	}
	got, out, err := get(ctx, client, s3.GetObjectInput{Key: key, ChecksumMode: types.ChecksumModeEnabled})
	sum := crc64.Checksum(data, crc64.MakeTable(0x9a6c9329ac4bc9b5))
	want := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, sum))
	if err != nil || !bytes.Equal(got, data) || *out.ChecksumCRC64NVME != want {
		t.Errorf("%d bytes, %+v, %v", len(got), out, err)
	}
	second, out, err := get(ctx, client, s3.GetObjectInput{Key: key, PartNumber: aws.Int32(2)})
	if err != nil || !bytes.Equal(second, data[7000:]) || *out.PartsCount != 2 {
		t.Errorf("second part: %d bytes, %+v, %v", len(second), out, err)
	}
	if bucket.Uploads() != 0 {
		t.Errorf("%d uploads left", bucket.Uploads())
	}
}

func TestAbortedUploadLeavesNothing(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{DataDir: t.TempDir()})
	ctx, name, key := t.Context(), aws.String("models"), aws.String("k")
	created, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: name, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var done []types.CompletedPart
	for n := int32(1); n <= 2; n++ {
		out, err := client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: name, Key: key, UploadId: created.UploadId, PartNumber: &n, Body: strings.NewReader("small"),
		})
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, types.CompletedPart{PartNumber: aws.Int32(n), ETag: out.ETag})
	}
	_, err = client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: name, Key: key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	if code(err) != "EntityTooSmall" {
		t.Errorf("small first part: %v", err)
	}
	in := &s3.AbortMultipartUploadInput{Bucket: name, Key: key, UploadId: created.UploadId}
	if _, err := client.AbortMultipartUpload(ctx, in); err != nil {
		t.Fatal(err)
	}
	if _, ok := bucket.Get("k"); ok || bucket.Uploads() != 0 {
		t.Error("an aborted upload left something")
	}
	if _, err := client.AbortMultipartUpload(ctx, in); code(err) != "NoSuchUpload" {
		t.Errorf("aborted twice: %v", err)
	}
}
