package console

import "strings"

// hintFor says what to do about the class of an error; empty where its text
// says all there is.
func hintFor(class string) string {
	if hint, ok := hints[class]; ok {
		return hint
	}
	switch {
	case strings.HasPrefix(class, "http_3"):
		return "Redirects are never followed, because they would carry the event to an address that nobody chose. Put the final address into the URL."
	case strings.HasPrefix(class, "http_4"):
		return "The receiver refuses the request. Its answer below often says why."
	case strings.HasPrefix(class, "http_5"):
		return "The receiver, or a proxy before it, failed while it handled the request. Its own log says why."
	case strings.HasPrefix(class, "http_1"):
		return "The receiver wants to speak another protocol. Point the URL at what takes a plain POST."
	}
	return ""
}

var hints = map[string]string{
	"timeout":  "The receiver took longer than the time limit. Let it store the event, answer 2xx, and do the work afterwards; or raise the webhook's timeout.",
	"dns":      "The host's name has no address. Look for a typing mistake in the URL, and whether this machine's resolver knows the name.",
	"refused":  "Nothing listens on that port. The receiver is down, or the URL has another port than it.",
	"reset":    "The receiver closed the connection before it had answered. It perhaps crashed, or a proxy before it gave up.",
	"tls":      "The two did not agree on TLS: the certificate has expired, is for another name, or is of an authority that this machine does not know. The URL may also say https where the receiver speaks http.",
	"egress":   "The address is not public, and only public addresses are dialled unless the Caddyfile allows others: egress { allow … }.",
	"protocol": "What came back is not HTTP. The port is perhaps that of another service.",
	"connect":  "No connection could be made: the network, or a firewall on the way, does not let it through.",
	"request":  "The request could not be made with these settings. Look at the URL.",
	"http_401": "The receiver does not accept the signature or the credentials. Compare its secret with the webhook's, below, and let it verify over the raw bytes of the body.",
	"http_403": "The receiver, or a firewall before it, does not let the request in. Frameworks with CSRF protection refuse webhooks unless their path is exempt.",
	"http_404": "There is nothing at this path. Look at the path in the URL.",
	"http_405": "The path is there but takes no POST. Look at the path in the URL, also at a slash at its end.",
	"http_410": "The receiver says that it wants no more events. The webhook is stopped until you enable it.",
	"http_413": "The receiver takes only smaller bodies. An event has at most 100 KiB; raise its limit to that.",
	"http_415": "The receiver does not take application/json here.",
	"http_429": "The receiver wants fewer requests. Give the webhook a rate, such as 10/s.",
	"http_502": "A proxy before the receiver did not reach it. The receiver is down or starting.",
	"http_503": "The receiver says that it is not available now. If it says so often, give the webhook a rate or less concurrency.",
	"http_504": "A proxy before the receiver waited too long for it. Let the receiver answer first and do the work afterwards.",
}
