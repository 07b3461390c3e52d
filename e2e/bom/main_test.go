package main

import (
	"strings"
	"testing"
)

const mit = `MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files
(the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge,
publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

// TestUnknownAndForbiddenLicencesFail is the control of the check that `make
// test` runs over everything that is compiled in.
func TestUnknownAndForbiddenLicencesFail(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		m          module
	}{
		{"known", "", module{texts: map[string]licence{"LICENSE": {ids: identify([]byte(mit))}}}},
		{"none", "no licence file", module{}},
		{"other words", "no licence that is known", module{texts: map[string]licence{"LICENSE": {ids: identify([]byte("All rights reserved. Ask us."))}}}},
		{"copyleft", "AGPL-3.0", module{texts: map[string]licence{"LICENSE": {ids: []string{"AGPL-3.0"}}}}},
		{"two, one of which is not accepted", "SSPL-1.0", module{texts: map[string]licence{"LICENSE": {ids: []string{"MIT", "SSPL-1.0"}}}}},
	} {
		err := check([]module{c.m})
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
