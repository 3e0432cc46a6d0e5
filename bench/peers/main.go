// Command peers downloads a prefix with the AWS SDK's own download managers, for the benchmark to compare with. It is
// a module of its own, so that sealfetch does not depend on them.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

type job struct {
	client      *s3.Client
	bucket, dst string
	prefix      string
	concurrency int   // parts at once of one file
	part        int64 // bytes
}

func main() {
	var j job
	var with, endpoint, ca string
	var files int
	flag.StringVar(&with, "with", "manager", "manager or transfermanager")
	flag.StringVar(&endpoint, "endpoint", "", "`URL` of S3")
	flag.StringVar(&ca, "ca", "", "PEM `FILE`")
	flag.StringVar(&j.bucket, "bucket", "", "")
	flag.StringVar(&j.prefix, "prefix", "", "")
	flag.StringVar(&j.dst, "dst", "", "")
	flag.IntVar(&files, "files", 4, "files at once")
	flag.IntVar(&j.concurrency, "concurrency", 5, "parts at once of one file")
	flag.Int64Var(&j.part, "part", 8<<20, "`BYTES` of a part")
	flag.Parse()
	if err := run(j, with, endpoint, ca, files); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(j job, with, endpoint, ca string, files int) error {
	ctx := context.Background()
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	j.client = s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(endpoint), UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
	keys, err := j.list(ctx)
	if err != nil {
		return err
	}
	get := j.manager
	if with == "transfermanager" {
		get = j.transferManager
	}
	work := make(chan string, len(keys))
	for _, key := range keys {
		work <- key
	}
	close(work)
	errs := make(chan error, files)
	for range files {
		go func() {
			for key := range work {
				if err := get(ctx, key); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range files {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

func (j job) list(ctx context.Context) (keys []string, err error) {
	pages := s3.NewListObjectsV2Paginator(j.client, &s3.ListObjectsV2Input{Bucket: &j.bucket, Prefix: &j.prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
	}
	return keys, nil
}

func (j job) create(key string) (*os.File, error) {
	return os.Create(filepath.Join(j.dst, filepath.Base(strings.TrimPrefix(key, j.prefix))))
}

func (j job) manager(ctx context.Context, key string) error {
	f, err := j.create(key)
	if err != nil {
		return err
	}
	defer f.Close()
	d := manager.NewDownloader(j.client, func(d *manager.Downloader) { d.Concurrency, d.PartSize = j.concurrency, j.part })
	_, err = d.Download(ctx, f, &s3.GetObjectInput{Bucket: &j.bucket, Key: &key})
	return err
}

func (j job) transferManager(ctx context.Context, key string) error {
	f, err := j.create(key)
	if err != nil {
		return err
	}
	defer f.Close()
	m := transfermanager.New(j.client, func(o *transfermanager.Options) {
		o.Concurrency, o.PartSizeBytes, o.GetObjectType = j.concurrency, j.part, types.GetObjectRanges
	})
	_, err = m.DownloadObject(ctx, &transfermanager.DownloadObjectInput{Bucket: &j.bucket, Key: &key, WriterAt: f})
	return err
}
