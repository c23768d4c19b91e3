package image

import (
	"archive/tar"
	"io"
	"slices"

	"banger/internal/fault"
)

// A tarWriter writes inodes to the tar stream that becomes the ext4 file system. The stream is clean whatever the layers were:
// each name once, a folder before what is in it, hard links after what they lead to, no path through a link.
type tarWriter struct{ w *tar.Writer }

// inode writes an inode under its first name; a regular file's content comes from content.
func (t tarWriter) inode(n *inode, content io.Reader) error {
	hdr := tar.Header{
		Typeflag: n.typ, Name: "./" + n.path(), Linkname: n.target, Mode: n.mode, Uid: n.uid, Gid: n.gid, Size: n.size,
		Devmajor: n.major, Devminor: n.minor, ModTime: n.mtime, AccessTime: n.mtime, ChangeTime: n.mtime,
		// The GNU format has room for all three times in one block, the PAX format needs two more; but only PAX has fractions of
		// seconds and attributes.
		Format: tar.FormatGNU,
	}
	if n.mtime.Nanosecond() != 0 || len(n.xattrs) > 0 {
		hdr.Format = tar.FormatPAX
	}
	if len(n.xattrs) > 0 {
		hdr.PAXRecords = make(map[string]string, len(n.xattrs))
		for name, value := range n.xattrs {
			hdr.PAXRecords[xattrRecord+name] = value
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

// link writes another name of an inode that was written already.
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

// An inventory is what a finished tree is made of, in the order in which it can be written.
type inventory struct {
	first    []*inode               // folders, parents first, and all that has no content
	contents map[int]map[int]*inode // regular files by where their content is: layer, then entry
	links    []hardLink
	size     int64 // bytes of all contents

	written bool // all inodes are written already, under the names that they came with
}

// take lists what is in the tree. It settles which name of an inode is its first.
func (t *tree) take() (*inventory, error) {
	inv := &inventory{contents: map[int]map[int]*inode{}}
	return inv, inv.add(t.root)
}

func (inv *inventory) add(dir *inode) error {
	inv.first = append(inv.first, dir)
	folders := 0
	for _, name := range dir.sorted() {
		n := dir.children[name].inode
		if n.isDir() {
			if folders++; folders > maxLinks-2 {
				return tooMany("subfolders", dir)
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
			n.parent, n.name = dir, name // the name that it came with may be gone
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

// layers are the layers that hold any content, lowest first.
func (inv *inventory) layers() []int {
	var l []int
	for layer := range inv.contents {
		l = append(l, layer)
	}
	slices.Sort(l)
	return l
}

func tooMany(what string, n *inode) error {
	return fault.New(fault.Unsupported, "%q has more than %d %s, which ext4 cannot hold", clip(n.path()), maxLinks, what)
}
