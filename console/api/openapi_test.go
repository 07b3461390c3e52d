package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/userhero/relay/console/api"
)

// contract is the OpenAPI document with its schemas made strict: what it does
// not name may not be in an answer.
type contract struct {
	document  map[string]any
	compiling sync.Mutex // guards compiler
	compiler  *jsonschema.Compiler
	mux       *http.ServeMux // finds the path of a request
}

var readContract = sync.OnceValues(func() (*contract, error) {
	text, err := os.ReadFile("openapi.json")
	if err != nil {
		return nil, err
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := &contract{document: parsed.(map[string]any), compiler: jsonschema.NewCompiler(), mux: http.NewServeMux()}
	c.compiler.AssertFormat()
	for path := range c.document["paths"].(map[string]any) {
		c.mux.HandleFunc(path, func(http.ResponseWriter, *http.Request) {})
	}
	return c, c.compiler.AddResource("openapi.json", strict(parsed))
})

func newContract(t *testing.T) *contract {
	t.Helper()
	c, err := readContract()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// strict copies a document; objects whose members are named get no others.
func strict(v any) any {
	switch v := v.(type) {
	case []any:
		c := make([]any, len(v))
		for i := range v {
			c[i] = strict(v[i])
		}
		return c
	case map[string]any:
		c := make(map[string]any, len(v))
		for name := range v {
			c[name] = strict(v[name])
		}
		if v["type"] == "object" && v["properties"] != nil {
			c["additionalProperties"] = false
		}
		return c
	}
	return v
}

// schema compiles what is at a JSON pointer of the document.
func (c *contract) schema(tokens ...string) (*jsonschema.Schema, error) {
	pointer := ""
	for _, token := range tokens {
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
	}
	c.compiling.Lock()
	defer c.compiling.Unlock()
	return c.compiler.Compile("openapi.json#" + pointer)
}

// at is what is at a path of the document, references followed; nil is nothing.
func (c *contract) at(tokens ...string) map[string]any {
	var found map[string]any
	v := any(c.document)
	for _, token := range tokens {
		m, _ := v.(map[string]any)
		if v = m[token]; v == nil {
			return nil
		}
	}
	found, _ = v.(map[string]any)
	if reference, ok := found["$ref"].(string); ok {
		return c.at(strings.Split(strings.TrimPrefix(reference, "#/"), "/")...)
	}
	return found
}

// check holds one answer against the document.
func (c *contract) check(method, path string, status int, header http.Header, body []byte) (operation string, err error) {
	if method == http.MethodHead {
		return "", nil
	}
	_, pattern := c.mux.Handler(httptest.NewRequest(http.MethodGet, path, nil))
	verb := strings.ToLower(method)
	operation = method + " " + pattern
	tokens := []string{"paths", pattern, verb, "responses", fmt.Sprint(status)}
	response := c.at(tokens...)
	if response == nil {
		if status < 400 {
			return operation, fmt.Errorf("%s has no answer %d", operation, status)
		}
		tokens = []string{"components", "responses", "default"}
		response = c.at(tokens...)
	} else if status >= 400 {
		tokens = []string{"components", "responses", fmt.Sprint(status)}
	}
	content, _ := response["content"].(map[string]any)
	kind := header.Get("Content-Type")
	if content[kind] == nil {
		return operation, fmt.Errorf("%s answers %d as %q", operation, status, kind)
	}
	schema, err := c.schema(append(tokens, "content", kind, "schema")...)
	if err != nil {
		return operation, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		err = fmt.Errorf("%s: %d: %w in %s", operation, status, err, body)
	}
	return operation, err
}

// checked is the API with every answer held against the document.
func checked(t *testing.T, api http.Handler) http.Handler {
	t.Helper()
	c := newContract(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/stream") || r.URL.Path == "/feedback" { // not JSON
			api.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, r)
		if _, err := c.check(r.Method, r.URL.Path, rec.Code, rec.Header(), rec.Body.Bytes()); err != nil {
			t.Error(err)
		}
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	})
}

func TestDocumentIsOpenAPI(t *testing.T) {
	t.Parallel()
	// The schema of the OpenAPI Initiative, https://spec.openapis.org/oas/3.1/schema/2022-10-07.
	official, err := jsonschema.NewCompiler().Compile("testdata/openapi-3.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	c := newContract(t)
	if err := official.Validate(any(c.document)); err != nil {
		t.Error(err)
	}
	for name := range c.at("components", "schemas") {
		if _, err := c.schema("components", "schemas", name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
	if err := official.Validate(map[string]any{"openapi": "3.1.0", "paths": map[string]any{}}); err == nil {
		t.Error("a document without info passes")
	}
}

func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	var documented []string
	ids := make(map[any]string)
	for path, item := range newContract(t).at("paths") {
		for method, operation := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			route := strings.ToUpper(method) + " " + path
			documented = append(documented, route)
			id := operation.(map[string]any)["operationId"]
			if other, taken := ids[id]; taken || id == nil {
				t.Errorf("%s and %s have the operationId %v", route, other, id)
			}
			ids[id] = route
		}
	}
	routes := api.Routes()
	slices.Sort(routes)
	slices.Sort(documented)
	if !slices.Equal(routes, documented) {
		t.Errorf("routes      %q\ndocumented %q", routes, documented)
	}
}

// TestDocumentHasEveryMember: what a type may encode or decode is in its
// schema, and what it always encodes is required there.
func TestDocumentHasEveryMember(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	requests := []string{"NewWebhook", "Rotation", "Recovery", "Erasure"}
	for name, typ := range api.Types() {
		schema := c.at("components", "schemas", name)
		var members, always []string
		for _, f := range reflect.VisibleFields(typ) {
			tag := f.Tag.Get("json")
			if f.Anonymous || tag == "" {
				continue
			}
			member, options, _ := strings.Cut(tag, ",")
			members = append(members, member)
			if options == "" && !optional(typ, f.Index) {
				always = append(always, member)
			}
		}
		properties, _ := schema["properties"].(map[string]any)
		described := slices.Sorted(maps.Keys(properties))
		slices.Sort(members)
		if !slices.Equal(members, described) {
			t.Errorf("%s has %q, its schema %q", name, members, described)
		}
		if slices.Contains(requests, name) {
			continue
		}
		if name == "Event" {
			always = append(always, "body", "deliveries") // lists leave them out, and have a schema of their own
		}
		var required []string
		for _, r := range schema["required"].([]any) {
			required = append(required, r.(string))
		}
		slices.Sort(required)
		slices.Sort(always)
		if !slices.Equal(always, required) {
			t.Errorf("%s always has %q, its schema requires %q", name, always, required)
		}
	}
}

// optional reports whether a field is in an embedded struct that may be absent.
func optional(typ reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		if typ = typ.Field(i).Type; typ.Kind() == reflect.Pointer {
			return true
		}
	}
	return false
}

func TestDocumentIsServedWithTheVersion(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, document := f.get(t, "/openapi.json")
	if info := document["info"].(map[string]any); document["openapi"] != "3.1.0" || info["version"] != "1.2.3" {
		t.Errorf("openapi %v, info %v", document["openapi"], info)
	}
}

// TestEveryAnswerIsAsDocumented asks everything once, with success and without.
// The answers of the other tests are held against the document too.
func TestEveryAnswerIsAsDocumented(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	m := newManaged(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(receiver.Close)
	answered := make(map[string]bool)
	ask := func(method, path, body string) map[string]any {
		t.Helper()
		w := httptest.NewRecorder()
		m.api.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		operation, err := c.check(method, path, w.Code, w.Header(), w.Body.Bytes())
		if err != nil {
			t.Error(err)
		}
		if w.Code < 400 {
			answered[operation] = true
		}
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	ask("POST", "/webhooks", fmt.Sprintf(`{"name":"w","url":%q,"generate_secret":true,"events":["feedback.created"],"filter":"true",
		"headers":{"X-Mine":"1"},"retry":["1m"],"timeout":"5s","concurrency":2,"rate":"50/s","ordered":true}`, receiver.URL+"/?token=x"))
	m.accept("fb_1")
	m.delivered("w", 1)
	for _, path := range []string{
		"/status", "/healthz", "/openapi.json", "/webhooks", "/webhooks?limit=1", "/webhooks/w", "/events?limit=1",
		"/deliveries?webhook=w&state=delivered", "/activity",
	} {
		ask("GET", path, "")
	}
	event := ask("GET", "/events", "")["items"].([]any)[0].(map[string]any)["id"].(string)
	delivery := ask("GET", "/events/"+event, "")["deliveries"].([]any)[0].(map[string]any)["id"].(string)
	ask("GET", "/deliveries/"+delivery, "")
	ask("POST", "/deliveries/"+delivery+"/redeliver", "")
	for verb, body := range map[string]string{
		"enable": "", "disable": "", "test": "", "preview": "", "rotate": `{"overlap":"1h"}`, "rotate-signing-key": "",
		"redeliver": `{"state":"missed","since":"` + time.Now().Format(time.RFC3339) + `","dry_run":true}`,
	} {
		ask("POST", "/webhooks/w/"+verb, body)
		ask("POST", "/webhooks/none/"+verb, body)
	}
	ask("GET", "/feedback/fb_1", "")
	ask("GET", "/feedback/none", "")
	ask("PATCH", "/webhooks/w", `{"ordered":false}`)
	ask("PATCH", "/webhooks/w", `{"retry":["soon"]}`)
	ask("POST", "/webhooks", `{"name":"w","url":"https://r.example"}`)
	ask("GET", "/deliveries?state=lost", "")
	ask("DELETE", "/webhooks/file", "")
	ask("DELETE", "/webhooks/w", "")
	ask("POST", "/erase", `{"filter":"data.id == \"fb_1\"","dry_run":true}`)
	ask("POST", "/erase", `{"filter":"data.id =="}`)
	ask("DELETE", "/feedback/fb_1", "")
	ask("DELETE", "/feedback/none", "")
	ask("DELETE", "/feedback/fb_1?project=", "")
	ask("GET", "/feedback/fb_1?project=", "")
	answered["GET /stream"], answered["GET /feedback"] = true, true // have tests of their own
	if all := slices.Sorted(maps.Keys(answered)); !slices.Equal(all, slices.Sorted(slices.Values(api.Routes()))) {
		t.Errorf("answered: %q", all)
	}

	for answer, want := range map[string]string{ // what the check is worth
		`{"status":"ok","more":1}`: "more", `{"status":"well"}`: "ok", `{}`: "status",
	} {
		header := http.Header{"Content-Type": {"application/json"}}
		if _, err := c.check("GET", "/healthz", 200, header, []byte(answer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s passes: %v", answer, err)
		}
	}
}

func TestStreamIsAsDocumented(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	f := newFixture(t)
	stream := listen(t.Context(), t, f.served(t, api.Options{})+"/stream", "1-1")
	seen := make(map[string]bool)
	check := func(h heard) {
		t.Helper()
		schema, err := c.schema("components", "schemas", "Streamed"+strings.ToUpper(h.kind[:1])+h.kind[1:])
		if err == nil {
			err = schema.Validate(any(h.data))
		}
		if err != nil {
			t.Errorf("%s: %v", h.kind, err)
		}
		seen[h.kind] = true
	}
	check(next(t, stream, "lost"))
	f.accept(t, "fb_1")
	for !seen["accepted"] || !seen["attempt"] { // in either order
		h, open := <-stream
		if !open {
			t.Fatal("the stream ended")
		}
		if h.kind != "" {
			check(h)
		}
	}
	if err := f.relay.Disable(t.Context(), "erp", "ada"); err != nil {
		t.Fatal(err)
	}
	check(next(t, stream, "state"))
	check(next(t, stream, "activity"))
}

func TestOnlyJSONIsRead(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	for contentType, want := range map[string]int{
		"": 201, "application/json": 201, "application/json; charset=utf-8": 201, "application/merge-patch+json": 201,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415,
	} {
		r := httptest.NewRequest("POST", "/webhooks", strings.NewReader(`{"name":"b","url":"https://b.example.com/"}`))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		m.api.ServeHTTP(w, r)
		if w.Code != want {
			body, _ := io.ReadAll(w.Body)
			t.Errorf("%q: %d, want %d: %s", contentType, w.Code, want, body)
		}
		if w.Code == 201 {
			m.do("DELETE", "/webhooks/b", "", 200)
		}
	}
}

func TestPagesOfWebhooksFollowEachOtherWhileTheyComeAndGo(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	for _, name := range []string{"a", "c", "e", "g"} {
		m.do("POST", "/webhooks", fmt.Sprintf(`{"name":%q,"url":"https://r.example.com/","headers":{"x-mine":"canary"}}`, name), 201)
	}
	var seen []string
	for cursor := ""; ; {
		page, text := m.do("GET", "/webhooks?limit=2&cursor="+cursor, "", 200)
		if strings.Contains(text, "canary") {
			t.Errorf("a header's value shows: %s", text)
		}
		for _, item := range page["items"].([]any) {
			seen = append(seen, item.(map[string]any)["name"].(string))
		}
		next, more := page["next"].(string)
		if !more {
			break
		}
		if cursor == "" {
			m.do("DELETE", "/webhooks/c", "", 200) // the one the cursor is at
			m.do("POST", "/webhooks", `{"name":"b","url":"https://r.example.com/"}`, 201)
			m.do("POST", "/webhooks", `{"name":"d","url":"https://r.example.com/"}`, 201)
		}
		cursor = next
	}
	if got := strings.Join(seen, " "); got != "a c d e file g" {
		t.Errorf("pages: %s", got)
	}
	m.do("GET", "/webhooks?cursor=!", "", 400)
}
