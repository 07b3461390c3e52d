package deliver

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestAddressesInOtherSpellingsAreRefused: if some programs read a host as an address
// and others as a name, neither a resolver nor a proxy gets it.
func TestAddressesInOtherSpellingsAreRefused(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "127.0.0.1.", "0x7F.0.0.0x1",
		"169.254.43518", "1.2.3.4.5", "256.256.256.256", "example.1", "example.0x", "１２７.０.０.１", "127。0。0。1", "169．254．169．254",
	} {
		err := Config{URL: "http://" + host + "/"}.Validate()
		if err == nil || !strings.Contains(err.Error(), "url") {
			t.Errorf("%s is a valid host: %v", host, err)
		}
	}
	for _, host := range []string{"93.184.216.34", "[2606:2800:220:1::1]", "example.com", "1.example", "xn--bcher-kva.example", "bücher.example", "0x.example", "a-1", "example.com."} {
		if err := (Config{URL: "http://" + host + "/"}).Validate(); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestNamesAreJudgedByTheAddressDialled: a name is public at its first lookup and
// private at the next. The check cannot be bypassed, because every address is checked
// right before the connection.
func TestNamesAreJudgedByTheAddressDialled(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer inside.Close()
	_, port, err := net.SplitHostPort(inside.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, allow string
		answers     [][]string // one per lookup; the last repeats
		class       string
	}{
		{"always inside", "", [][]string{{"127.0.0.1"}}, classEgress},
		{"mapped", "", [][]string{{"::ffff:127.0.0.1"}}, classEgress},
		// 192.0.2.0/24 belongs to nobody. It is allowed here and stands for a public
		// address that does not answer.
		{"public first, then inside", "192.0.2.0/24", [][]string{{"192.0.2.1"}, {"127.0.0.1"}}, ""},
		{"both at once", "192.0.2.0/24", [][]string{{"192.0.2.1", "127.0.0.1"}}, ""},
		{"another name is allowed", "inside.test", [][]string{{"127.0.0.1"}}, classEgress},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			allow := []string{}
			if c.allow != "" {
				allow = append(allow, c.allow)
			}
			client, err := NewClient(Egress{Allow: allow}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			resolver, asked := dnsServer(t, c.answers)
			client.egress.guarded.Resolver, client.egress.named.Resolver = resolver, resolver
			client.egress.guarded.Timeout = 300 * time.Millisecond
			to, err := client.Receiver(Config{URL: "http://rebound.test:" + port + "/", Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				a, o := to.Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()})
				if o.OK || c.class != "" && a.ErrorClass != c.class {
					t.Errorf("%+v: %s", o, a.Error)
				}
			}
			if asked.Load() == 0 {
				t.Error("the resolver was not asked: the test shows nothing")
			}
		})
	}
	t.Cleanup(func() {
		if n := reached.Load(); n != 0 {
			t.Errorf("%d requests reached the inside", n)
		}
	})
}

// dnsServer is a resolver whose answers change. Its answers must not be cached.
func dnsServer(t *testing.T, answers [][]string) (*net.Resolver, *atomic.Int64) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	asked := new(atomic.Int64)
	go func() {
		turns := make(map[dnsmessage.Type]int)
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			asked.Add(1)
			q := m.Questions[0]
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true}, Questions: m.Questions}
			for _, text := range answers[min(turns[q.Type], len(answers)-1)] {
				ip := net.ParseIP(text)
				head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
				switch v4 := ip.To4(); {
				case q.Type == dnsmessage.TypeA && v4 != nil && !strings.Contains(text, ":"):
					reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: [4]byte(v4)}})
				case q.Type == dnsmessage.TypeAAAA && strings.Contains(text, ":"):
					reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(ip.To16())}})
				}
			}
			turns[q.Type]++
			if packed, err := reply.Pack(); err == nil {
				_, _ = server.WriteTo(packed, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}, asked
}

// TestAProxyIsNoWayAroundTheGuard: addresses are checked before the proxy gets them. A
// receiver at the proxy's own address is checked too.
func TestAProxyIsNoWayAroundTheGuard(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	asked.Store("")
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.RequestURI)
		_, _ = io.WriteString(w, "from the proxy")
	}))
	defer proxy.Close()
	attempt := func(to string, allow ...string) (string, string) {
		asked.Store("")
		c, err := NewClient(Egress{Proxy: proxy.URL, Allow: allow}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		target, err := c.Receiver(Config{URL: to, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		a, _ := target.Attempt(t.Context(), Message{Body: []byte(`{}`), Started: time.Now()})
		return asked.Load().(string), a.ErrorClass
	}
	for _, inside := range []string{
		"http://169.254.169.254/", "http://10.0.0.1/", "http://[::ffff:10.0.0.1]/", "http://[fd00:ec2::254]/", "http://[fe80::1%25lo]/",
		"https://127.0.0.1/", proxy.URL + "/", "http://2130706433/", "http://0x7f.1/", "http://１２７.０.０.１/", "http://[64:ff9b::a00:1]/",
	} {
		if request, class := attempt(inside); request != "" || class != classEgress {
			t.Errorf("%s: the proxy was asked %q, class %q", inside, request, class)
		}
	}
	// Control: allowed requests go through the proxy.
	for to, want := range map[string]string{
		"http://hooks.example/x": "POST http://hooks.example/x", "http://10.0.0.1/": "POST http://10.0.0.1/", "http://93.184.216.34/": "POST http://93.184.216.34/",
	} {
		if request, class := attempt(to, "10.0.0.0/8"); request != want || class != "" {
			t.Errorf("%s: the proxy was asked %q, class %q", to, request, class)
		}
	}
}

// TestLinkLocalReceiversCanBeAllowed: the guard's error says to allow the address, and
// doing so works.
func TestLinkLocalReceiversCanBeAllowed(t *testing.T) {
	t.Parallel()
	e, err := newEgress(Egress{Allow: []string{"fe80::1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.control("tcp6", "[fe80::1%lo]:80", nil); err != nil {
		t.Errorf("allowed, and refused: %v", err)
	}
	if err := e.control("tcp6", "[fe80::2%lo]:80", nil); err == nil {
		t.Error("another address is allowed with it")
	}
}
