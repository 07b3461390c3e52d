package words

import "strings"

// HintFor returns what to do about a class of errors; empty if the error itself says
// it.
func HintFor(class string) string {
	if hint, ok := hints[class]; ok {
		return hint
	}
	switch {
	case strings.HasPrefix(class, "http_3"):
		return "Redirects are never followed, because they would send the event to an address that nobody chose. Set the URL to the final address."
	case strings.HasPrefix(class, "http_4"):
		return "The receiver refused the request. Its answer below often says why."
	case strings.HasPrefix(class, "http_5"):
		return "The receiver, or a proxy in front of it, failed. Look into its log."
	case strings.HasPrefix(class, "http_1"):
		return "The receiver wants another protocol. Set the URL to an address that takes a plain POST."
	}
	return ""
}

var hints = map[string]string{
	"timeout":  "The receiver took longer than the timeout. Let it store the event, answer 2xx and then do the work, or set a longer timeout.",
	"dns":      "The host name has no address. Check the URL for a typing mistake, and whether this machine can resolve the name.",
	"refused":  "Nothing listens on that port. Start the receiver, or correct the port in the URL.",
	"reset":    "The receiver closed the connection without an answer. It may have crashed, or a proxy in front of it gave up. Look into their logs.",
	"tls":      "The TLS connection failed. The certificate has expired, is for another name, or comes from an authority that this machine does not trust; or the URL has https and the receiver speaks http.",
	"egress":   "The address is not public. Only public addresses are allowed. Whoever runs the relay can allow others, with egress { allow … } in the Caddyfile.",
	"protocol": "The answer is not HTTP. Check the port: it may belong to another service.",
	"connect":  "No connection was possible. Check the network and the firewalls on the way.",
	"project":  "Nothing was sent: the delivery was made before the webhook was limited to its projects. Add the project to the webhook, then send the delivery again.",
	"body":     "Nothing was sent. Correct the webhook's body so that it can be made of this event too; the next attempt uses it.",
	"request":  "The request could not be made. Check the URL.",
	"http_401": "The receiver does not accept the signature or the credentials. Check its secret below, and let it verify the raw bytes of the body.",
	"http_403": "The receiver, or a firewall in front of it, refused the request. A framework with CSRF protection needs an exception for the webhook's path.",
	"http_404": "There is nothing at this path. Check the path in the URL.",
	"http_405": "This path does not take POST. Check the path in the URL, also a slash at its end.",
	"http_410": "The receiver wants no more events. The webhook is disabled until you enable it.",
	"http_413": "The body is too large for the receiver. An event has at most 100 KiB; raise the receiver's limit to that.",
	"http_415": "The receiver does not take application/json at this URL.",
	"http_429": "The receiver wants fewer requests. Set a rate for the webhook, such as 10/s.",
	"http_502": "A proxy in front of the receiver could not reach it. The receiver is down or starting.",
	"http_503": "The receiver is not available at the moment. If this happens often, set a rate or a lower concurrency.",
	"http_504": "A proxy in front of the receiver waited too long. Let the receiver answer first and then do the work.",
}
