package rootfs

import (
	"archive/tar"
	"io"
	"slices"

	"banger/internal/fault"
)

// tarWriter writes inodes to the tar stream that becomes the file system. Each name comes once, a
// directory before its content, a hard link after its target, and no path leads through a link.
type tarWriter struct{ w *tar.Writer }

// inode writes an inode under its first name. content is a regular file's content.
func (t tarWriter) inode(n *inode, content io.Reader) error {
	hdr := tar.Header{
		Typeflag: n.typ, Name: "./" + n.path(), Linkname: n.target, Mode: n.mode, Uid: n.uid, Gid: n.gid, Size: n.size,
		Devmajor: n.major, Devminor: n.minor, ModTime: n.mtime, AccessTime: n.mtime, ChangeTime: n.mtime,
		// GNU's format has room for three times in one block. PAX needs two more blocks, but only
		// PAX has fractions of seconds and attributes.
		Format: tar.FormatGNU,
	}
	if n.mtime.Nanosecond() != 0 || len(n.xattrs) > 0 {
		hdr.Format = tar.FormatPAX
	}
	if len(n.xattrs) > 0 {
		hdr.PAXRecords = make(map[string]string, len(n.xattrs))
		for _, x := range n.xattrs {
			hdr.PAXRecords[xattrRecord+x.name] = x.value
		}
	}
	if err := t.w.WriteHeader(&hdr); err != nil {
		return err
	}
	if n.size == 0 {
		return nil
	}
	_, err := io.CopyN(t.w, content, n.size)
	if err == io.EOF {
		return invalid("%q ends early", clip(n.path()))
	}
	return err
}

// link writes another name of an inode that was written before.
func (t tarWriter) link(l hardLink) error {
	return t.w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeLink, Name: join(l.dir, l.name), Linkname: l.to.path(), Format: tar.FormatGNU,
	})
}

type hardLink struct {
	dir  *inode
	name string
	to   *inode
}

// inventory is the content of a finished tree, in an order in which it can be written.
type inventory struct {
	first    []*inode               // directories, parents first, and files without content
	contents map[int]map[int]*inode // regular files by layer and entry
	links    []hardLink
	size     int64 // bytes of all contents

	written bool // all inodes were written under their original names
}

// take lists the tree, and decides which name of an inode is its first.
func (t *Tree) take() (*inventory, error) {
	inv := &inventory{contents: map[int]map[int]*inode{}}
	return inv, inv.add(t.root)
}

func (inv *inventory) add(dir *inode) error {
	inv.first = append(inv.first, dir)
	directorys := 0
	for _, name := range dir.sorted() {
		n := dir.children[name].inode
		if n.isDir() {
			if directorys++; directorys > maxLinks-2 {
				return tooMany("subdirectories", dir)
			}
			if err := inv.add(n); err != nil {
				return err
			}
			continue
		}
		if n.names++; n.names > maxLinks {
			return tooMany("hard links", n)
		}
		switch {
		case inv.written && (n.parent != dir || n.name != name), !inv.written && n.names > 1:
			inv.links = append(inv.links, hardLink{dir, name, n})
		case !inv.written:
			n.parent, n.name = dir, name // its original name may be gone
			inv.addFirst(n)
		}
	}
	return nil
}

func (inv *inventory) addFirst(n *inode) {
	if n.size == 0 {
		inv.first = append(inv.first, n)
		return
	}
	inv.size += n.size
	layer := inv.contents[n.at.layer]
	if layer == nil {
		layer = map[int]*inode{}
		inv.contents[n.at.layer] = layer
	}
	layer[n.at.entry] = n
}

// layers returns the layers with content, lowest first.
func (inv *inventory) layers() []int {
	var l []int
	for layer := range inv.contents {
		l = append(l, layer)
	}
	slices.Sort(l)
	return l
}

func tooMany(what string, n *inode) error {
	return fault.New(fault.Unsupported, "%q has more than %d %s, which ext4 cannot hold",
		clip(n.path()), maxLinks, what)
}
