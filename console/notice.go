package console

import (
	"bytes"
	"net/http"
)

// Notice is a page with one message and no navigation.
type Notice struct {
	Title, Text string
	// Samples are pieces of configuration to copy.
	Samples []Sample
}

// Sample is text to copy.
type Sample struct{ Name, Code string }

// WriteNotice answers with a notice. The path inside is that of the request below
// the console's mount point.
func WriteNotice(w http.ResponseWriter, inside string, status int, n Notice) {
	var b bytes.Buffer
	if err := templates()["notice.html"].ExecuteTemplate(&b, "notice.html", struct {
		Root string
		Notice
	}{rootOf(inside), n}); err != nil {
		panic(err) // template and values are fixed
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may have disconnected
}
