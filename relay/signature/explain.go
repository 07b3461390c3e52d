package signature

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Request holds the parts of a signed request that Explain needs.
type Request struct {
	// Secret is the webhook's secret as the receiver knows it.
	Secret string
	// PublicKey is the public key of the webhook's signing key, in a form that VerifyPublic
	// reads. If it is not empty, Explain checks the asymmetric signatures, v1a, and Secret
	// does not count.
	PublicKey string
	// Signature is the value of X-UserHero-Signature, or of webhook-signature,
	// which may hold several, separated by spaces.
	Signature string
	// ID and Timestamp are the values of webhook-id and webhook-timestamp. Only
	// webhook-signature covers them.
	ID, Timestamp string
	// Body is the request's body.
	Body []byte
}

// Verdict is what Explain returns.
type Verdict struct {
	// Valid reports whether the signature is right without any correction.
	Valid bool
	// Reasons explain why the signature is wrong, in one or two sentences each. If
	// Explained is true, correcting all of them makes the signature right. If it is false,
	// the cause is unknown, and the reasons name what to check.
	Reasons   []string
	Explained bool
}

// Explain checks a signature for a person. If it is wrong, Explain tries the usual
// mistakes, the fewest at a time, until they explain it: a body that was parsed and
// written again, a newline that a tool added, white space around the secret,
// another encoding.
//
// canonical writes a JSON document in the form in which the relay sends it, or returns why
// it cannot. Pass event.Canonical of this module.
func Explain(s Request, canonical func([]byte) ([]byte, error)) Verdict {
	if s.Secret == "" && s.PublicKey == "" {
		return wrong("The secret is empty. For a webhook without a secret, X-UserHero-Signature is not sent.")
	}
	s.Signature = fieldValue(s.Signature)
	if s.Signature == "" {
		return wrong("The signature is empty. Where the request had none, its webhook has no secret, or something on the way removed the header.")
	}
	schemes, why := schemesOf(s)
	if why != "" {
		return wrong(why)
	}
	written, writeErr := canonical(s.Body)
	bodies := bodyVariants(s.Body)
	if writeErr == nil {
		bodies = bodies.add(written, "The body was parsed and written again: the same JSON, but other bytes (spaces or escapes). Verify over the raw bytes of the request, before any JSON parser.")
	}
	for mistakes := range maxMistakes + 1 {
		for _, c := range schemes {
			if reasons, ok := c.match(bodies, mistakes); ok {
				return Verdict{Valid: mistakes == 0, Reasons: reasons, Explained: true}
			}
		}
	}
	return wrong(unexplained(s, written, writeErr)...)
}

// schemesOf returns the ways to sign that a request may have used, the likeliest first, or
// why there is none.
func schemesOf(s Request) (schemes []scheme, why string) {
	covered := s.ID != "" && s.Timestamp != ""
	if !covered && (s.PublicKey != "" || strings.HasPrefix(s.Signature, standardPrefix)) {
		return nil, "This is a webhook-signature, which covers webhook-id and webhook-timestamp too. Give both, from the same request."
	}
	switch {
	case s.PublicKey != "":
		asymmetric, err := asymmetricScheme(s)
		if err != nil {
			return nil, sentence(err)
		}
		schemes = []scheme{asymmetric}
	case !covered:
		schemes = []scheme{plainScheme(s)}
	case strings.HasPrefix(s.Signature, standardPrefix):
		schemes = []scheme{standardScheme(s), plainScheme(s)}
	default:
		schemes = []scheme{plainScheme(s), standardScheme(s)}
	}
	if !slices.ContainsFunc(schemes, func(c scheme) bool { return len(c.sums) > 0 }) {
		return nil, unreadable(s)
	}
	return schemes, ""
}

// sentence returns an error as a sentence for people.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// maxMistakes is the most mistakes at once that Explain looks for. More are rare, and with a
// wrong secret Explain tries all combinations.
const maxMistakes = 3

func wrong(reasons ...string) Verdict { return Verdict{Reasons: reasons} }

// variant is a value as it was given, or the value after one mistake is corrected. The
// mistake is described in a sentence, which is empty for the given value.
type variant struct {
	value   []byte
	mistake string
}

// variants are tried in turn. The first one is the given value.
type variants []variant

// add appends a variant unless the same value is already in the list.
func (v variants) add(value []byte, mistake string) variants {
	for _, known := range v {
		if bytes.Equal(known.value, value) {
			return v
		}
	}
	return append(v, variant{value, mistake})
}

// scheme is one of the ways to sign: with one of the keys, over one of the heads and the
// body, gives one of the sums.
type scheme struct {
	sums, keys, heads variants
	// signed returns a function that reports whether a sum is the signature with a key.
	signed func(key, head, body []byte) func(sum []byte) bool
}

// hmacSigned is an HMAC-SHA256.
func hmacSigned(key, head, body []byte) func(sum []byte) bool {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(head) // hashes do not fail
	_, _ = mac.Write(body)
	want := mac.Sum(nil)
	return func(sum []byte) bool { return hmac.Equal(sum, want) }
}

// ed25519Signed is an ed25519 signature. The key is the public one.
func ed25519Signed(key, head, body []byte) func(sum []byte) bool {
	message := slices.Concat(head, body)
	return func(sum []byte) bool { return ed25519.Verify(key, message, sum) }
}

// match looks for a combination with exactly this number of mistakes that gives one of the
// sums.
func (c scheme) match(bodies variants, mistakes int) (reasons []string, ok bool) {
	for _, key := range c.keys {
		for _, head := range c.heads {
			for _, body := range bodies {
				made := mistakesOf(key, head, body)
				if len(made) > mistakes {
					continue
				}
				is := c.signed(key.value, head.value, body.value)
				for _, sum := range c.sums {
					all := append(mistakesOf(sum), made...)
					if len(all) == mistakes && is(sum.value) {
						return all, true
					}
				}
			}
		}
	}
	return nil, false
}

func mistakesOf(parts ...variant) (made []string) {
	for _, p := range parts {
		if p.mistake != "" {
			made = append(made, p.mistake)
		}
	}
	return made
}

// plainScheme is X-UserHero-Signature: sha256= and lower-case hex, over the
// body alone.
func plainScheme(s Request) scheme {
	c := scheme{signed: hmacSigned, heads: variants{{}}, keys: secretVariants(s.Secret, func(secret string) ([]byte, bool) { return []byte(secret), true })}
	if key, err := standardKey(s.Secret); err == nil && strings.HasPrefix(s.Secret, secretPrefix) {
		c.keys = c.keys.add(key, "The secret was decoded. X-UserHero-Signature is keyed with the secret's characters, whsec_ among them; only webhook-signature is keyed with what they decode to.")
	}
	sum, encoding := decodeSum(trimPrefixFold(s.Signature, plainPrefix, standardPrefix), sha256.Size)
	var mistake string
	switch {
	case sum == nil:
		return c
	case encoding == inBase64:
		mistake = "The signature is in base64. X-UserHero-Signature is sha256= and the HMAC in lower-case hex."
	case !strings.HasPrefix(s.Signature, plainPrefix):
		mistake = "The signature has to begin with sha256= (in lower case)."
	case encoding == inUpperHex:
		mistake = "The signature is in upper-case hex. The header has lower-case hex, and is compared byte for byte."
	}
	c.sums = variants{{sum, mistake}}
	return c
}

// standardScheme is the webhook-signature of Standard Webhooks 1.0: v1, and
// base64, over id.timestamp.body.
func standardScheme(s Request) scheme {
	c := scheme{signed: hmacSigned, heads: headVariants(s), keys: secretVariants(s.Secret, func(secret string) ([]byte, bool) {
		key, err := standardKey(secret)
		return key, err == nil
	})}
	c.keys = c.keys.add([]byte(s.Secret), "The secret was not decoded. webhook-signature is keyed with the bytes that a secret's part after whsec_ stands for in base64.")
	c.sums = tokenSums(s.Signature, sha256.Size, standardPrefix, []string{plainPrefix, standardPrefix},
		"The signature is in hex. webhook-signature is v1, and the HMAC in base64.",
		"The signature has to begin with v1, as the header does.")
	return c
}

// asymmetricScheme is the asymmetric webhook-signature of Standard Webhooks 1.0: v1a, and
// base64, over id.timestamp.body.
func asymmetricScheme(s Request) (scheme, error) {
	c := scheme{signed: ed25519Signed, heads: headVariants(s)}
	text := strings.Trim(strings.TrimSpace(s.PublicKey), `"'`)
	if k, err := ParseKey(text); err == nil {
		c.keys = c.keys.add(k.public(), "This is the private key. A receiver needs only the public one, "+k.Public()+"; if the private key has left the relay, change it.")
	} else {
		keys, err := parsePublic(text)
		if err != nil {
			return c, err
		}
		for _, key := range keys {
			c.keys = c.keys.add(key, "")
		}
	}
	c.sums = tokenSums(s.Signature, ed25519.SignatureSize, asymmetricPrefix, []string{asymmetricPrefix},
		"The signature is in hex. An asymmetric signature is v1a, and base64.",
		"The signature has to begin with v1a, as the header does.")
	return c, nil
}

// tokenSums returns the sums of size bytes in a webhook-signature. One that is right begins
// with prefix and is base64; prefixes are all that may stand before a sum. Signatures of
// other versions are left out.
func tokenSums(text string, size int, prefix string, prefixes []string, inHex, withoutPrefix string) (sums variants) {
	for _, token := range strings.Fields(text) {
		sum, encoding := decodeSum(trimPrefixFold(token, prefixes...), size)
		var mistake string
		switch {
		case sum == nil:
			continue
		case encoding != inBase64:
			mistake = inHex
		case !strings.HasPrefix(token, prefix):
			mistake = withoutPrefix
		}
		sums = sums.add(sum, mistake)
	}
	return sums
}

// headVariants returns what a webhook-signature covers before the body, and what it would
// cover after a mistake.
func headVariants(s Request) variants {
	v := variants{{value: head(s.ID, s.Timestamp)}}
	id, at := fieldValue(s.ID), fieldValue(s.Timestamp)
	v = v.add(head(id, at), "webhook-id or webhook-timestamp has something around it: give the bare values.")
	if ms, err := strconv.ParseInt(at, 10, 64); err == nil {
		v = v.add(head(id, strconv.FormatInt(ms/1000, 10)), "webhook-timestamp is in seconds, not in milliseconds.")
	}
	return v.add(nil, "The signature covers the body alone. webhook-signature covers id.timestamp.body.")
}

func head(id, timestamp string) []byte { return []byte(id + "." + timestamp + ".") }

// secretVariants returns the keys of a secret: of the given text, and of the text without
// characters that people often copy with it.
func secretVariants(secret string, key func(string) ([]byte, bool)) (keys variants) {
	add := func(secret, mistake string) {
		if k, ok := key(secret); ok {
			keys = keys.add(k, mistake)
		}
	}
	add(secret, "")
	bare := strings.TrimSpace(secret)
	add(bare, "The secret has white space around it, such as the newline at the end of a file.")
	add(strings.Trim(bare, `"'`), "The secret has quotation marks around it.")
	add(bare+"\n", "The webhook's secret ends with a newline that the one here does not have. It was perhaps read from a file; configure it without.")
	if !strings.HasPrefix(bare, secretPrefix) {
		add(secretPrefix+bare, "The secret lacks its beginning, whsec_.")
	}
	return keys
}

// bodyVariants returns the body, and other bodies that may have been signed.
func bodyVariants(body []byte) variants {
	v := variants{{value: body}}
	v = v.add(bytes.TrimRight(body, "\r\n"), "The body ends with a newline that was not sent. Many editors and echo add one: use printf '%s', or keep the bytes as they came.")
	v = v.add(bytes.TrimSpace(body), "The body has white space around it that was not sent.")
	v = v.add(append(bytes.Clone(body), '\n'), "The body was sent with a newline at its end, which is missing here.")
	v = v.add(bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF")), "The body begins with a byte order mark that was not sent.")
	v = v.add(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), "The body's newlines were turned into CR LF.")
	return v
}

// The encodings of a sum.
type encoding int

const (
	inHex encoding = iota
	inUpperHex
	inBase64
)

// decodeSum reads a signature of so many bytes in any encoding. It returns nil if the text
// is not one.
func decodeSum(text string, size int) ([]byte, encoding) {
	if len(text) == 2*size {
		if sum, err := hex.DecodeString(text); err == nil {
			if strings.ToLower(text) != text {
				return sum, inUpperHex
			}
			return sum, inHex
		}
	}
	text = strings.TrimRight(text, "=")
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if sum, err := e.DecodeString(text); err == nil && len(sum) == size {
			return sum, inBase64
		}
	}
	return nil, inHex
}

// trimPrefixFold removes the first prefix that matches, in upper or lower case.
func trimPrefixFold(text string, prefixes ...string) string {
	for _, p := range prefixes {
		if len(text) >= len(p) && strings.EqualFold(text[:len(p)], p) {
			return text[len(p):]
		}
	}
	return text
}

// fieldValue returns the value of a header field that may have been copied with its name, in
// quotation marks, or with white space.
func fieldValue(text string) string {
	bare := func(s string) string { return strings.Trim(strings.TrimSpace(s), `"'`) }
	text = bare(text)
	for _, name := range []string{"X-UserHero-Signature:", "webhook-signature:", "webhook-id:", "webhook-timestamp:"} {
		if rest := trimPrefixFold(text, name); rest != text {
			return bare(rest)
		}
	}
	return text
}

// unreadable returns why a text cannot be a signature.
func unreadable(s Request) string {
	first := strings.Fields(s.Signature)[0]
	switch asymmetric := trimPrefixFold(first, asymmetricPrefix) != first; {
	case s.PublicKey != "":
		return "The signature is no asymmetric one: that is v1a, and 88 characters of base64, in webhook-signature. Without it, the webhook has no signing key; the other signatures are verified with the secret."
	case asymmetric:
		return "The signature is an asymmetric one (v1a). It is verified with the webhook's public key, not with the secret."
	}
	text := trimPrefixFold(first, plainPrefix, standardPrefix)
	if strings.Trim(text, "0123456789abcdefABCDEF") == "" {
		switch n := len(text); {
		case n == 2*20: // bytes of SHA-1
			return "The signature is as long as one of SHA-1. The relay signs with SHA-256."
		case n < 2*sha256.Size:
			return fmt.Sprintf("The signature is cut off: it has %d hex digits of %d.", n, 2*sha256.Size)
		}
	}
	return "The signature is no HMAC-SHA256: X-UserHero-Signature is sha256= and 64 hex digits, webhook-signature is v1, and 44 characters of base64. Give the header's value as it came."
}

// unexplained returns what to check if no known mistake explains the signature. canonical is
// the body as the relay would write it; err is why the relay cannot.
func unexplained(s Request, canonical []byte, err error) []string {
	const raw = "Verify over the raw bytes of the request, before any parser, and with the headers of the same request."
	body, key := s.Body, "secret"
	secret := "Compare the secret with the one that the webhook is configured with; while it is being rotated, X-UserHero-Signature is made with the previous one."
	if s.PublicKey != "" {
		key, secret = "public key", "Compare the public key with those that the console shows for the webhook and publishes at .well-known/webhook-keys.json."
	}
	if len(body) == 0 {
		return []string{"The body is empty. No event is: give it on standard input, as it came."}
	}
	switch {
	case err != nil:
		return []string{"The body is not the JSON that was sent; it was cut off or changed (" + err.Error() + "). " + raw, secret}
	case !bytes.Equal(canonical, body):
		return []string{"The body was written again: the relay sends JSON without spaces. Its members were perhaps sorted or changed as well. " + raw, secret}
	}
	return []string{"The body reads as the relay writes it, so the " + key + " is likely another one. " + secret, "If the " + key + " is right, the body's members were changed or put in another order, or the signature is of another request. " + raw}
}
