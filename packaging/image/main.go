// Command image writes the container images of a release, FROM scratch and without
// a daemon: one folder per version holds Caddy, certificates and the default
// Caddyfile, and runs as a user without rights. For each architecture it writes an
// archive in Docker's format, which can hold a health check, and one archive in OCI's
// format for all of them. The same input gives the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The user of the process and of /data: the "nonroot" that other images know.
const user = 65532

type release struct {
	version, revision, certificates, config, out string
	created                                      time.Time
}

func main() {
	log.SetFlags(0)
	var r release
	flag.StringVar(&r.version, "version", "", "version of the release, without v")
	flag.StringVar(&r.revision, "revision", "", "commit of the release")
	flag.StringVar(&r.certificates, "certificates", "", "PEM file of the certificate authorities")
	flag.StringVar(&r.config, "config", "", "the image's Caddyfile")
	flag.StringVar(&r.out, "out", ".", "folder for the archives")
	seconds := flag.Int64("created", 0, "time of every file and image, in seconds since 1970")
	flag.Parse() // the rest: ARCHITECTURE=BINARY …
	r.created = time.Unix(*seconds, 0).UTC()
	if err := r.write(flag.Args()); err != nil {
		log.Fatal("image: ", err)
	}
}

func (r release) write(binaries []string) error {
	tag, err := name.NewTag("localhost/userhero-relay:" + r.version)
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range binaries {
		architecture, binary, ok := strings.Cut(b, "=")
		if !ok {
			return fmt.Errorf("%q is not ARCHITECTURE=BINARY", b)
		}
		image, err := r.image(architecture, binary)
		if err != nil {
			return fmt.Errorf("%s: %w", architecture, err)
		}
		path := filepath.Join(r.out, fmt.Sprintf("userhero-relay_%s_linux_%s.docker.tar", r.version, architecture))
		if err := tarball.WriteToFile(path, tag, image); err != nil {
			return err
		}
		oci := mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        oci,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	// The archive names one thing: the list of architectures.
	named := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add:        index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": tag.String()}},
	})
	return r.archive(filepath.Join(r.out, fmt.Sprintf("userhero-relay_%s_linux.oci.tar", r.version)), named)
}

func (r release) image(architecture, binary string) (v1.Image, error) {
	files, err := r.files(binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{CreatedBy: "packaging/image", Created: v1.Time{Time: r.created}},
	})
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", architecture, v1.Time{Time: r.created}
	file.Config = v1.Config{
		User:         fmt.Sprintf("%d:%d", user, user),
		Env:          []string{"PATH=/usr/bin", "HOME=/data", "XDG_DATA_HOME=/data", "XDG_CONFIG_HOME=/data/config"},
		Entrypoint:   []string{"/usr/bin/caddy"},
		Cmd:          []string{"run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"},
		WorkingDir:   "/data",
		Volumes:      map[string]struct{}{"/data": {}},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "8443/tcp": {}, "8443/udp": {}},
		StopSignal:   "SIGTERM",
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", "/usr/bin/caddy", "userhero", "health"},
			Interval: 30 * time.Second, Timeout: 5 * time.Second, StartPeriod: 30 * time.Second, Retries: 3,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "UserHero Relay",
			"org.opencontainers.image.description": "Durable webhooks for user feedback, as a module of Caddy",
			"org.opencontainers.image.source":      "https://github.com/userhero/relay",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     r.version,
			"org.opencontainers.image.revision":    r.revision,
			"org.opencontainers.image.created":     r.created.Format(time.RFC3339),
		},
	}
	return mutate.ConfigFile(image, file)
}

// files is the image's only layer, as a tar.
func (r release) files(binary string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h tar.Header, content []byte) error {
		h.ModTime, h.Size, h.Format = r.created, int64(len(content)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	for _, folder := range []string{"data/", "etc/", "etc/caddy/", "etc/ssl/", "etc/ssl/certs/", "usr/", "usr/bin/"} {
		h := tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755}
		if folder == "data/" {
			h.Mode, h.Uid, h.Gid = 0o700, user, user
		}
		if err := add(h, nil); err != nil {
			return nil, err
		}
	}
	for _, file := range []struct {
		name, from string
		mode       int64
	}{
		{"etc/caddy/Caddyfile", r.config, 0o644},
		{"etc/ssl/certs/ca-certificates.crt", r.certificates, 0o644},
		{"usr/bin/caddy", binary, 0o755},
	} {
		content, err := os.ReadFile(file.from)
		if err != nil {
			return nil, err
		}
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: file.mode}, content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// archive writes the index as an OCI layout in a tar.
func (r release) archive(path string, index v1.ImageIndex) (err error) {
	folder, err := os.MkdirTemp("", "relay-image")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if _, err := layout.Write(folder, index); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	files := os.DirFS(folder)
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		h := tar.Header{Name: path, ModTime: r.created, Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatPAX}
		if d.IsDir() {
			return w.WriteHeader(&h)
		}
		content, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		h.Typeflag, h.Mode, h.Size = tar.TypeReg, 0o644, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	return errors.Join(err, w.Close())
}
