package lean

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxExcess bounds the bytes of a chunked body that are not data, beyond 16 per chunk
// and twice the data. net/http has the same bound.
const maxExcess = 16 << 10

// chunkedBody reads a chunked body (RFC 9112, §7.1). It reads trailers and drops them.
// It is strict in points on which readers have disagreed: lines end with CRLF, and
// sizes are hexadecimal digits.
type chunkedBody struct {
	lines  lineReader // for the trailers
	left   uint64     // bytes left in the chunk
	inside bool       // a chunk has begun, and its CRLF must follow
	excess int
	err    error
}

func (c *chunkedBody) Read(p []byte) (n int, err error) {
	for len(p) > 0 && c.err == nil {
		ready := 1
		if c.left == 0 {
			ready = len("\r\nffffffff\r\n")
		}
		if n > 0 && c.lines.r.Buffered() < ready {
			break // return what is there: the rest may not have come
		}
		if c.left == 0 {
			if c.err = c.next(); c.err != nil {
				break
			}
		}
		some := p[:min(uint64(len(p)), c.left)]
		var got int
		got, err = c.lines.r.Read(some)
		n, p, c.left = n+got, p[got:], c.left-uint64(got)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		c.err = err
	}
	return n, c.err
}

// next begins the next chunk. After the last one it returns io.EOF.
func (c *chunkedBody) next() error {
	if c.inside {
		// Peek does not allocate. A receiver can make each byte a chunk, so an
		// allocation here could happen 64 Ki times.
		end, err := c.lines.r.Peek(2)
		if err != nil {
			return endedEarly(err)
		}
		if string(end) != "\r\n" {
			return badAnswer("a chunk does not end where it says")
		}
		_, _ = c.lines.r.Discard(2) // they are in the buffer
	}
	line, err := c.lines.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return badAnswer("a chunk's size is longer than %d bytes", len(line))
	}
	if err != nil {
		return endedEarly(err)
	}
	c.inside = true
	if c.left, err = parseChunkSize(line); err != nil {
		return err
	}
	c.excess = max(c.excess+len(line)+2-16-2*int(min(c.left, maxExcess)), 0)
	if c.excess > maxExcess {
		return badAnswer("its chunks are mostly not its body")
	}
	if c.left > 0 {
		return nil
	}
	switch _, proper, err := c.lines.fields(); {
	case err != nil:
		return err
	case !proper:
		return badAnswer("a line of its trailers is no field")
	}
	return io.EOF
}

// parseChunkSize parses the line before a chunk: its size, and extensions, which are
// ignored.
func parseChunkSize(line []byte) (size uint64, err error) {
	digits, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return 0, badAnswer("a chunk's size does not end with CRLF")
	}
	digits, extension, _ := bytes.Cut(digits, []byte(";"))
	for _, c := range extension {
		if c < ' ' && c != '\t' || c == 0x7f {
			return 0, badAnswer("a chunk's extension has a control character")
		}
	}
	digits = bytes.TrimRight(digits, " \t")
	if len(digits) == 0 || len(digits) > 15 {
		return 0, badAnswer("a chunk's size is %q", digits[:min(len(digits), 32)])
	}
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, badAnswer("a chunk's size is %q", digits)
		}
		size = size<<4 | uint64(c)
	}
	return size, nil
}
