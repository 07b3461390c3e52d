// Package embeddednats is a NATS server inside Caddy, for `queue jetstream`. Three Caddys
// are then the whole cluster, without other programs. It is only in builds that name it,
// and adds 10 MB to the program:
//
//	xcaddy build --with github.com/userhero/relay --with github.com/userhero/relay/embeddednats
//
// It promises that the server acknowledges a message only when it is on its disk, that a
// reload does not restart the server, that the server gives up its leaderships before it
// stops, and that it never ends the process. Its only client is the relay in this process:
// clients on other machines cannot connect. The package does not know what is stored. e2e
// tests three built Caddys.
package embeddednats

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/userhero/relay/caddymodule"
	"github.com/userhero/relay/caddymodule/option"
)

func init() { caddy.RegisterModule(Server{}) }

// Server is a NATS server in this process. Three or five of them make a cluster that works
// while a majority of them runs.
type Server struct {
	// The server's name, which no other server of the cluster has: letters, digits, `-`
	// and `_`. It must not change. Required.
	Name string `json:"name,omitempty"`

	// Where the other servers connect, as `host:port`: an address of this machine that
	// they can reach. Required, unless this is the only server.
	Listen string `json:"listen,omitempty"`

	// Where the other servers listen, as `host:port`, without this server or with it.
	// Default: none, a server that is alone.
	Routes []string `json:"routes,omitempty"`

	// The folder of the server's data, on a local disk that honours fsync. Placeholders
	// are replaced when the configuration is loaded. Default: `userhero-nats` in Caddy's
	// data directory.
	Path string `json:"path,omitempty"`

	// The certificates of the connections between the servers. Both sides show theirs.
	// Default: no TLS, which is for networks that nobody else can reach: who can
	// connect to `listen` can read and write everything.
	TLS *RouteTLS `json:"tls,omitempty"`

	path   string
	listen address
	routes []address
}

// RouteTLS names the files of the servers' certificates, in PEM.
type RouteTLS struct {
	// The certificate of this server, for the host name or address by which the others
	// name it in `routes`, for servers and for clients.
	CertificateFile string `json:"certificate_file,omitempty"`

	// The private key of the certificate.
	KeyFile string `json:"key_file,omitempty"`

	// The authority that has issued the certificates of all servers, and no others.
	CAFile string `json:"ca_file,omitempty"`
}

// address is the address where a server listens for the other servers.
type address struct{ host, port string }

func (a address) String() string { return net.JoinHostPort(a.host, a.port) }

// CaddyModule returns the Caddy module information.
func (Server) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "userhero.queues.jetstream.embedded",
		New: func() caddy.Module { return new(Server) },
	}
}

var names = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Provision checks the settings and reads the certificates. It starts nothing.
func (s *Server) Provision(caddy.Context) error {
	repl := caddy.NewReplacer()
	for _, field := range []*string{&s.Name, &s.Listen, &s.Path} {
		v, err := repl.ReplaceOrErr(*field, true, true)
		if err != nil {
			return err
		}
		*field = v
	}
	if !names.MatchString(s.Name) {
		return fmt.Errorf("name: %q is no name of 1 to 64 letters, digits, - and _", s.Name)
	}
	path := s.Path
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "userhero-nats")
	}
	var err error
	if s.path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if err := s.provisionRoutes(repl); err != nil {
		return err
	}
	if s.TLS == nil {
		return nil
	}
	for _, file := range []*string{&s.TLS.CertificateFile, &s.TLS.KeyFile, &s.TLS.CAFile} {
		if *file, err = repl.ReplaceOrErr(*file, true, true); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
	}
	if _, err := s.TLS.config(); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	return nil
}

func (s *Server) provisionRoutes(repl *caddy.Replacer) (err error) {
	if s.Listen == "" {
		if len(s.Routes) > 0 || s.TLS != nil {
			return errors.New("listen: name the address of this machine where the other servers connect, such as 10.0.0.1:6222")
		}
		return nil
	}
	if s.listen, err = parseAddress(s.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for _, text := range s.Routes {
		resolved, err := repl.ReplaceOrErr(text, true, true)
		if err != nil {
			return fmt.Errorf("routes: %w", err)
		}
		route, err := parseAddress(resolved)
		if err != nil {
			return fmt.Errorf("routes: %w", err)
		}
		if route != s.listen && !slices.Contains(s.routes, route) {
			s.routes = append(s.routes, route)
		}
	}
	switch n := len(s.routes) + 1; n {
	case 3, 5:
		return nil
	default:
		return fmt.Errorf("routes: with these the cluster has %d servers; it must have 3 or 5, so that a majority can go on without one. Leave out listen and routes for a single server", n)
	}
}

func parseAddress(text string) (a address, err error) {
	if a.host, a.port, err = net.SplitHostPort(text); err != nil || a.host == "" || a.port == "" {
		return a, fmt.Errorf("%q is no host:port; write for example 10.0.0.1:6222", text)
	}
	return a, nil
}

// Key implements caddymodule.NATSServer.
func (s *Server) Key() string { return s.path }

// Settings implements caddymodule.NATSServer.
func (s *Server) Settings() map[string]string {
	settings := map[string]string{"name": s.Name, "listen": s.Listen, "routes": strings.Join(s.Routes, " ")}
	if s.TLS != nil {
		settings["tls"] = strings.Join([]string{s.TLS.CertificateFile, s.TLS.KeyFile, s.TLS.CAFile}, " ")
	}
	return settings
}

// Replicas implements caddymodule.NATSServer.
func (s *Server) Replicas() int {
	if len(s.routes) == 0 {
		return 1
	}
	return copies
}

// UnmarshalCaddyfile sets up the server from Caddyfile tokens. Syntax:
//
//	embedded {
//	    name   <name>
//	    listen <host:port>
//	    routes <host:port…>
//	    path   <folder>
//	    tls    <cert_file> <key_file> <ca_file>
//	}
func (s *Server) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return option.Directive(d, "embedded",
		option.Text("name", &s.Name),
		option.Text("listen", &s.Listen),
		option.Texts("routes", &s.Routes),
		option.Text("path", &s.Path),
		option.Option{Name: "tls", Read: s.unmarshalTLS},
	)
}

func (s *Server) unmarshalTLS(d *caddyfile.Dispenser) error {
	s.TLS = new(RouteTLS)
	if !d.Args(&s.TLS.CertificateFile, &s.TLS.KeyFile, &s.TLS.CAFile) || d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner      = (*Server)(nil)
	_ caddyfile.Unmarshaler  = (*Server)(nil)
	_ caddymodule.NATSServer = (*Server)(nil)
)
