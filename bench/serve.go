package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// serve is the child that plays S3: as little server as there can be, so that the client is what is measured. It
// checks no signature. Reads are http.ServeContent, which sends a file with sendfile(2) where there is no TLS. Uploads
// are counted and thrown away.
func serve(ctx context.Context, argv []string) error {
	var s server
	var addr, certOut string
	var pace pace
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.StringVar(&s.root, "root", "", "`DIR` with a directory for each bucket")
	f.StringVar(&addr, "addr", "127.0.0.1:0", "`ADDRESS` to listen on")
	f.StringVar(&certOut, "tls", "", "serve TLS and write the CA's certificate to `FILE`")
	f.DurationVar(&pace.firstByte, "first-byte", 0, "time before the first byte of an answer")
	f.DurationVar(&pace.rtt, "rtt", 0, "round trip time")
	f.Float64Var(&pace.connRate, "conn-rate", 0, "bytes a second of one connection; 0 = any")
	f.Float64Var(&pace.linkRate, "link-rate", 0, "bytes a second of all connections; 0 = any")
	if err := f.Parse(argv); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	scheme := "http"
	if certOut != "" {
		scheme = "https"
		host, _, _ := net.SplitHostPort(addr)
		if listener, err = tlsListener(listener, net.ParseIP(host), certOut); err != nil {
			return err
		}
	}
	fmt.Println(scheme + "://" + listener.Addr().String()) // what the parent waits for
	web := &http.Server{Handler: pace.wrap(&s), ConnContext: pace.connContext}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the parent's end closes with the parent
		web.Close()
	}()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// tlsListener makes a CA that lives as long as the server, and a certificate of it for the address.
func tlsListener(inner net.Listener, ip net.IP, certOut string) (net.Listener, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{ip},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(certOut, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return tls.NewListener(inner, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"http/1.1"}}), nil
}

// server answers what S3 clients ask when they read a prefix or upload one.
type server struct {
	root    string
	uploads atomic.Int64
}

// ServeHTTP is http.Handler's: reads, lists, and takes uploads.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && key == "":
		s.list(w, bucket, query)
	case r.Method == http.MethodHead && key == "":
		w.Header().Set("X-Amz-Bucket-Region", "us-east-1")
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		s.get(w, r, filepath.Join(s.root, bucket, filepath.FromSlash(key)))
	case r.Method == http.MethodPut:
		s.put(w, r)
	case r.Method == http.MethodPost && query.Has("uploads"):
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%d</UploadId></InitiateMultipartUploadResult>",
			s.uploads.Add(1))
	case r.Method == http.MethodPost && query.Has("uploadId"):
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>`)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (s *server) get(w http.ResponseWriter, r *http.Request, path string) {
	f, err := os.Open(path)
	if err != nil {
		notFound(w)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		notFound(w)
		return
	}
	w.Header().Set("Etag", etag(info))
	w.Header().Set("Content-Type", "binary/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func etag(info fs.FileInfo) string {
	return fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size())
}

func notFound(w http.ResponseWriter) {
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>")
}

func (s *server) put(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	w.Header().Set("Etag", `"1"`)
}

// listing is the answer to ListObjects, in both versions.
type listing struct {
	XMLName     xml.Name `xml:"ListBucketResult"`
	Name        string
	Prefix      string
	MaxKeys     int
	KeyCount    int
	IsTruncated bool
	Contents    []listed
}

type listed struct {
	Key          string
	Size         int64
	ETag         string
	LastModified string
	StorageClass string
}

func (s *server) list(w http.ResponseWriter, bucket string, query url.Values) {
	l := listing{Name: bucket, Prefix: query.Get("prefix"), MaxKeys: 1000}
	base := filepath.Join(s.root, bucket)
	marker := query.Get("start-after") + query.Get("marker") + query.Get("continuation-token")
	var last string
	_ = filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		rel, _ := filepath.Rel(base, path)
		key := filepath.ToSlash(rel)
		if !strings.HasPrefix(key, l.Prefix) || key <= marker && marker != "" {
			return nil
		}
		if len(l.Contents) == l.MaxKeys {
			l.IsTruncated = true
			return fs.SkipAll
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil
		}
		last = key
		modified := info.ModTime().UTC().Format(time.RFC3339)
		l.Contents = append(l.Contents, listed{key, info.Size(), etag(info), modified, "STANDARD"})
		return nil
	})
	l.KeyCount = len(l.Contents)
	w.Header().Set("Content-Type", "application/xml")
	if !l.IsTruncated {
		_ = xml.NewEncoder(w).Encode(l)
		return
	}
	_ = xml.NewEncoder(w).Encode(struct {
		listing
		NextMarker            string
		NextContinuationToken string
	}{l, last, last})
}
