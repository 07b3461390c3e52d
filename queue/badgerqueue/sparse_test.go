package badgerqueue

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// The whences of lseek(2) on Linux that find what of a file was ever written. Logs
// are files of tens of megabytes with next to nothing in them.
const (
	seekData = 3
	seekHole = 4
)

// dataRanges returns the ranges of a file that hold data, in pairs of begin and end.
func dataRanges(f *os.File) (ranges [][2]int64, err error) {
	for end := int64(0); ; {
		begin, err := f.Seek(end, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return ranges, nil
		}
		if err != nil {
			return nil, err
		}
		if end, err = f.Seek(begin, seekHole); err != nil {
			return nil, err
		}
		ranges = append(ranges, [2]int64{begin, end})
	}
}

// readSparse returns what a file holds up to the last byte that was written, and the
// file's length.
func readSparse(path string) (used []byte, length int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	ranges, err := dataRanges(f)
	if err != nil || len(ranges) == 0 {
		return nil, int(info.Size()), err
	}
	used = make([]byte, ranges[len(ranges)-1][1])
	for _, r := range ranges {
		if _, err := f.ReadAt(used[r[0]:r[1]], r[0]); err != nil {
			return nil, 0, err
		}
	}
	return used, int(info.Size()), nil
}

// CopySparse copies a file and leaves holes where it has some. It goes from the end to
// the beginning: of a log that grows meanwhile, the copy is what it was at a moment.
func CopySparse(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { _ = dst.Close() }()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	ranges, err := dataRanges(src)
	if err != nil {
		return err
	}
	const blockSize = 64 << 10
	block := make([]byte, blockSize)
	for i := len(ranges) - 1; i >= 0; i-- {
		begin, end := ranges[i][0], ranges[i][1]
		for at := begin + (end-begin-1)/blockSize*blockSize; at >= begin; at -= blockSize {
			n, err := src.ReadAt(block[:min(blockSize, end-at)], at)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := dst.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
	}
	return dst.Truncate(info.Size())
}
