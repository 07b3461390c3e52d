// Command bom is the bill of materials of a Caddy with this module: the Go
// modules that are compiled in, and the licence of each.
//
//	bom list     modules with versions and licences, one a line
//	bom texts    the licence texts, for whoever hands a built binary on
//	bom sbom     CycloneDX 1.6 as JSON
//
// Every form fails where a module's licence is not known for certain, or is not
// among those the project accepts. It reads the module cache and go.sum, nothing
// from the network, and says the same for the same go.mod and system.
package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/licensecheck"
)

// accepted are the licences (SPDX) that may be linked into a binary under
// Apache-2.0. MPL-2.0 asks for the source of the files under it, which is public
// and unchanged; OFL-1.1 is that of a font.
var accepted = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MPL-2.0", "OFL-1.1", "Unlicense"}

// read are texts that people have read because no program knows them, by SHA-256.
var read = map[string][]string{
	// bbloom: the MIT licence and a dedication to the public domain, as comments.
	"6dd1cec8fe966990fbcdd00ca64e05604c66bd1fa1573d862dceaf18cde869e4": {"CC0-1.0", "MIT"},
}

// roots are what xcaddy compiles: Caddy's commands and modules, and this one.
var roots = []string{".", "github.com/caddyserver/caddy/v2/cmd", "github.com/caddyserver/caddy/v2/modules/standard"}

// sure is the share of a file's words that known licences must cover.
const sure = 75

// module is one that is compiled in.
type module struct {
	path, version string
	main          bool
	texts         map[string]licence // by file, relative to the module
}

// licence is a file with what it grants.
type licence struct {
	ids  []string
	text string
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bom:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	forms := map[string]func(io.Writer, []module) error{"list": list, "texts": texts, "sbom": sbom}
	if len(args) != 1 || forms[args[0]] == nil {
		return errors.New("say what: list, texts or sbom")
	}
	modules, err := compiled()
	if err != nil {
		return err
	}
	if err := check(modules); err != nil {
		return err
	}
	return forms[args[0]](out, modules)
}

// compiled returns the modules of all packages that are compiled in.
func compiled() ([]module, error) {
	const format = "{{with .Module}}{{.Path}}\t{{.Version}}\t{{.Main}}\t{{.Dir}}\t{{end}}{{.Dir}}"
	cmd := exec.Command("go", append([]string{"list", "-deps", "-f", format}, roots...)...) //nolint:gosec,noctx // fixed words; ends by itself
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the packages: %w", err)
	}
	found := make(map[string]*module)
	for line := range strings.Lines(string(output)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 5 {
			continue // the standard library
		}
		m := found[fields[0]]
		if m == nil {
			m = &module{path: fields[0], version: fields[1], main: fields[2] == "true", texts: make(map[string]licence)}
			found[m.path] = m
		}
		if err := m.read(fields[3], fields[4]); err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(func(yield func(module) bool) {
		for _, m := range found {
			if !yield(*m) {
				return
			}
		}
	}, func(a, b module) int { return cmp.Compare(a.path, b.path) }), nil
}

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying)([-._].*)?$`)

// read finds the licence of a package: the files nearest to it, in its folder or
// one above, up to the module's.
func (m *module) read(root, folder string) error {
	for {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			if e.IsDir() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			name, err := filepath.Rel(root, filepath.Join(folder, e.Name()))
			if err != nil {
				return err
			}
			found = true
			if _, known := m.texts[name]; known {
				continue
			}
			text, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil {
				return err
			}
			m.texts[name] = licence{ids: identify(text), text: string(text)}
		}
		if found || folder == root {
			return nil
		}
		folder = filepath.Dir(folder)
	}
}

// identify names the licences in a text; none where it is not sure.
func identify(text []byte) []string {
	if ids := read[fmt.Sprintf("%x", sha256.Sum256(text))]; ids != nil {
		return ids
	}
	coverage := licensecheck.Scan(text)
	if coverage.Percent < sure {
		return nil
	}
	var ids []string
	for _, m := range coverage.Match {
		if !m.IsURL && !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func (m module) licences() []string {
	var ids []string
	for _, l := range m.texts {
		ids = append(ids, l.ids...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// check says which licences are unknown or not accepted.
func check(modules []module) error {
	var wrong []error
	for _, m := range modules {
		if len(m.texts) == 0 {
			wrong = append(wrong, fmt.Errorf("%s %s has no licence file; without one nothing is granted", m.path, m.version))
		}
		for _, name := range slices.Sorted(maps.Keys(m.texts)) {
			ids := m.texts[name].ids
			if len(ids) == 0 {
				wrong = append(wrong, fmt.Errorf("%s %s: %s is no licence that is known", m.path, m.version, name))
			}
			for _, id := range ids {
				if !slices.Contains(accepted, id) {
					wrong = append(wrong, fmt.Errorf("%s %s is under %s (%s), which is not accepted; accepted are %s", m.path, m.version, id, name, strings.Join(accepted, ", ")))
				}
			}
		}
	}
	return errors.Join(wrong...)
}

func list(out io.Writer, modules []module) error {
	w := bufio.NewWriter(out)
	for _, m := range modules {
		if !m.main {
			fmt.Fprintf(w, "%s %s %s\n", m.path, m.version, strings.Join(m.licences(), " "))
		}
	}
	return w.Flush()
}

func texts(out io.Writer, modules []module) error {
	w := bufio.NewWriter(out)
	fmt.Fprintln(w, "This program contains the following modules, under the licences that follow each.")
	for _, m := range modules {
		for _, name := range slices.Sorted(maps.Keys(m.texts)) {
			fmt.Fprintf(w, "\n%s\n%s %s: %s\n\n%s\n", strings.Repeat("=", 80), m.path, m.version, name, strings.TrimSpace(m.texts[name].text))
		}
	}
	return w.Flush()
}

// sbom has no time and no serial number, so that equal sources give equal bytes.
func sbom(out io.Writer, modules []module) error {
	sums, err := goSums()
	if err != nil {
		return err
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = new(cyclonedx.Metadata)
	var components []cyclonedx.Component
	for _, m := range modules {
		c := component(m, sums)
		if m.main {
			c.Type = cyclonedx.ComponentTypeApplication
			bom.Metadata.Component = &c
			continue
		}
		components = append(components, c)
	}
	bom.Components = &components
	encoder := cyclonedx.NewBOMEncoder(out, cyclonedx.BOMFileFormatJSON)
	return encoder.SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
}

func component(m module, sums map[string]string) cyclonedx.Component {
	url := "pkg:golang/" + m.path
	if m.version != "" {
		url += "@" + m.version
	}
	c := cyclonedx.Component{Type: cyclonedx.ComponentTypeLibrary, Name: m.path, Version: m.version, PackageURL: url, BOMRef: url}
	var licences cyclonedx.Licenses
	for _, id := range m.licences() {
		licences = append(licences, cyclonedx.LicenseChoice{License: &cyclonedx.License{ID: id}})
	}
	c.Licenses = &licences
	if sum := sums[m.path+" "+m.version]; sum != "" {
		c.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: sum}}
	}
	return c
}

// goSums are the hashes of go.sum as hex, by "module version".
func goSums() (map[string]string, error) {
	mod, err := exec.Command("go", "env", "-json", "GOMOD").Output() //nolint:noctx // ends by itself
	if err != nil {
		return nil, err
	}
	var env struct{ GOMOD string }
	if err := json.Unmarshal(mod, &env); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(strings.TrimSuffix(env.GOMOD, ".mod") + ".sum")
	if err != nil {
		return nil, err
	}
	sums := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || strings.HasSuffix(fields[1], "/go.mod") {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(fields[2], "h1:"))
		if err != nil {
			return nil, fmt.Errorf("go.sum: %s: %w", fields[0], err)
		}
		sums[fields[0]+" "+fields[1]] = hex.EncodeToString(sum)
	}
	return sums, nil
}
