package intake

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/medama-io/go-useragent"
	"golang.org/x/text/language"

	"github.com/userhero/relay/event"
)

// maxHint bounds the header fields that are read for the context, in bytes. A longer field
// does not come from a browser, or is of no use to a person.
const maxHint = 1024

// userAgents is made when it is first needed. That takes 20 ms, and from then on every
// garbage collection visits its 230,000 objects.
var userAgents = sync.OnceValue(useragent.NewParser)

// complete gives feedback what it does not have: what the request says of itself, and an
// id, a status and a time.
func (h *Handler) complete(r *http.Request, s scope, f *event.Feedback) {
	f.Fill(h.defaults(r, s, f))
	f.Complete(time.Now(), event.NewID)
}

// defaults returns what the request says of itself and the feedback does not.
func (h *Handler) defaults(r *http.Request, s scope, f *event.Feedback) event.Defaults {
	d := event.Defaults{Project: s.project, Widget: s.widget}
	// The page that holds the form or the widget. Only that page knows where the visitor
	// came from (context.referrer).
	d.Context.PageURL = hint(r.Header, "Referer")
	if !f.HasContext("browser", "browserVersion", "os", "deviceType") {
		fromUserAgent(&d.Context, hint(r.Header, "User-Agent"))
		fromClientHints(&d.Context, r.Header)
	}
	if !f.HasContext("locale") {
		d.Context.Locale = localeOf(hint(r.Header, "Accept-Language"))
	}
	if !f.HasContext("country") {
		d.Context.Country = h.visitorCountry(r)
	}
	return d
}

// visitorCountry returns the visitor's country by a header field, or by the address.
func (h *Handler) visitorCountry(r *http.Request) string {
	if h.countryHeader != "" {
		if country := countryOf(r.Header.Get(h.countryHeader)); country != "" {
			return country
		}
	}
	if addr := h.client(r); addr.IsValid() {
		return countryOf(h.country(addr))
	}
	return ""
}

// hint returns a header field, or nothing if it is longer than maxHint. Bytes that are not
// UTF-8 are replaced. The name must be in canonical form.
func hint(h http.Header, name string) string {
	values := h[name]
	if len(values) == 0 || len(values[0]) > maxHint {
		return ""
	}
	return strings.ToValidUTF8(values[0], "\uFFFD")
}

// fromUserAgent reads browser, system and kind of device.
func fromUserAgent(c *event.Context, field string) {
	if field == "" {
		return
	}
	ua := userAgents().Parse(field)
	c.Browser = ua.Browser().String()
	c.BrowserVersion = ua.BrowserVersionMajor()
	c.OS = ua.OS().String()
	if ua.IsMacOS() {
		c.OS = "macOS" // as Apple and the client hints write it
	}
	if !ua.IsBot() { // a script is not a device
		c.DeviceType = strings.ToLower(ua.Device().String())
	}
}

// fromClientHints reads the hints that browsers send without being asked
// (https://wicg.github.io/ua-client-hints/). They win over User-Agent, which names other
// browsers for compatibility.
func fromClientHints(c *event.Context, h http.Header) {
	if field := hint(h, "Sec-Ch-Ua-Platform"); field != "" {
		if item, err := httpsfv.UnmarshalItem([]string{field}); err == nil {
			if platform, ok := item.Value.(string); ok && platform != "" && platform != "Unknown" {
				c.OS = platform
			}
		}
	}
	if hint(h, "Sec-Ch-Ua-Mobile") == "?1" && c.DeviceType != "tablet" {
		c.DeviceType = "mobile"
	}
	if field := hint(h, "Sec-Ch-Ua"); field != "" {
		if name, version := brandOf(field); name != "" {
			c.Browser, c.BrowserVersion = name, version
		}
	}
}

// brandOf returns the browser in a list of brands. The list also holds an invented brand,
// against sniffing, and the engine.
func brandOf(field string) (name, version string) {
	brands, err := httpsfv.UnmarshalList([]string{field})
	if err != nil {
		return "", ""
	}
	for _, member := range brands {
		item, ok := member.(httpsfv.Item)
		if !ok {
			continue
		}
		brand, ok := item.Value.(string)
		if !ok || brand == "" || strings.Contains(brand, "Brand") && strings.Contains(brand, "Not") {
			continue
		}
		if brand == "Chromium" && name != "" {
			continue
		}
		v, _ := item.Params.Get("v")
		text, _ := v.(string)
		if _, err := strconv.Atoi(text); err != nil {
			text = ""
		}
		name, version = brand, text
		if brand != "Chromium" {
			break
		}
	}
	switch name {
	case "Google Chrome":
		name = "Chrome"
	case "Microsoft Edge":
		name = "Edge"
	}
	return name, version
}

// localeOf returns the language that the visitor prefers (RFC 9110 §12.5.4).
func localeOf(field string) string {
	if field == "" {
		return ""
	}
	tags, _, err := language.ParseAcceptLanguage(field)
	if err != nil || len(tags) == 0 || tags[0] == language.Und {
		return ""
	}
	if locale := tags[0].String(); locale != "mul" { // "*"
		return locale
	}
	return ""
}

// countryOf returns an ISO 3166-1 code in upper case, or "" if field is none. Proxies and
// databases write XX, ZZ, T1 or EU if they do not know the country.
func countryOf(field string) string {
	code := strings.ToUpper(field)
	if len(code) != 2 || len(field) != 2 {
		return ""
	}
	for i := 0; i < len(countries); i += 3 {
		if countries[i:i+2] == code {
			return code
		}
	}
	return ""
}

// countries are the officially assigned codes of ISO 3166-1.
const countries = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ " +
	"CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR " +
	"GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP " +
	"KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ " +
	"NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW " +
	"SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ " +
	"UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
