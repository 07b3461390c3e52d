package storefile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// Manifest names the tables that are in use.
type Manifest struct {
	Tables map[uint64]uint64 // data key by number of the table
	// Torn is how many bytes of an unfinished change are at the end of the file. A crash
	// during the write leaves some, and so does a truncation of the file.
	Torn int64
}

// ReadManifest reads MANIFEST. Errors wrap ErrDamaged or fs.ErrNotExist.
func ReadManifest(dir string) (Manifest, error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = f.Close() }()
	m, end, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Manifest{}, err
	}
	out := Manifest{Tables: make(map[uint64]uint64, len(m.Tables)), Torn: size - end}
	for id, t := range m.Tables {
		out.Tables[id] = t.KeyID
	}
	return out, nil
}
