package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/gzhttp"
)

//go:embed assets
var assetFiles embed.FS

// AssetsPath is the start of the paths of styles and scripts. They hold no data of
// the relay, so everybody may read them.
const AssetsPath = "/assets/"

// asset is one file.
type asset struct {
	plain       []byte
	contentType string
	version     string // a hash of the content
}

// assets returns the files by name. They are made at the first use, because
// most commands and many relays never show a console.
var assets = sync.OnceValue(loadAssets)

func loadAssets() map[string]asset {
	all := make(map[string]asset)
	for name, contentType := range map[string]string{
		"console.css":      "text/css; charset=utf-8",
		"console.js":       "text/javascript; charset=utf-8",
		"live.js":          "text/javascript; charset=utf-8",
		"idiomorph.min.js": "text/javascript; charset=utf-8",
		"icon.svg":         "image/svg+xml",
	} {
		plain, err := assetFiles.ReadFile("assets/" + name)
		if err != nil {
			panic(err) // it is embedded
		}
		all[name] = newAsset(plain, contentType)
	}
	for n := 1; n <= mostCounted+1; n++ {
		all[iconFor(n)] = newAsset(countedIcon(all[iconFor(0)].plain, n), "image/svg+xml")
	}
	return all
}

func newAsset(plain []byte, contentType string) asset {
	sum := sha256.Sum256(plain)
	return asset{plain, contentType, hex.EncodeToString(sum[:6])}
}

// mostCounted is the highest number that an icon shows.
const mostCounted = 9

// iconFor names the icon that counts failing webhooks.
func iconFor(failing int) string {
	if failing == 0 {
		return "icon.svg"
	}
	return "icon-" + strconv.Itoa(min(failing, mostCounted+1)) + ".svg"
}

// countedIcon draws a number on the icon.
func countedIcon(icon []byte, n int) []byte {
	text := strconv.Itoa(n)
	if n > mostCounted {
		text = "9+"
	}
	return bytes.Replace(icon, []byte("</svg>"), []byte(`<circle cx="21" cy="21" r="11" fill="#b3261e"/>`+
		`<text x="21" y="26" font-family="sans-serif" font-size="14" font-weight="700" fill="#fff" text-anchor="middle">`+text+"</text></svg>"), 1)
}

// assetURL returns the address of a file, relative to the console's root. It changes
// with the content, so that browsers can cache the file forever.
func assetURL(name string) string { return AssetsPath[1:] + name + "?v=" + assets()[name].version }

// ServeAsset answers with a file. The path is that of the request below the
// console's mount point.
func ServeAsset(w http.ResponseWriter, r *http.Request, inside string) {
	a, ok := assets()[path.Base(inside)]
	if !ok || inside != AssetsPath+path.Base(inside) {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("ETag", `W/"`+a.version+`"`) // weak: the bytes differ by encoding
	zipped(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.plain))
	})).ServeHTTP(w, r)
}

// zipped answers with gzip if the browser takes it. Its options are valid.
var zipped, _ = gzhttp.NewWrapper(gzhttp.MinSize(0), gzhttp.CompressionLevel(gzip.BestCompression), gzhttp.EnableZstd(false))
