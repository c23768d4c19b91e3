package server

// names knows what the references of images mean now, for one answer. It looks each one up once.
type names struct {
	images Images
	ids    map[string]string // by reference; "" if it means no image
}

func namesOf(images Images) names { return names{images, map[string]string{}} }

// id returns the id of the image that a reference means now, as in a start. "": it means none.
func (n names) id(ref string) string {
	id, known := n.ids[ref]
	if !known {
		if img, err := n.images.Get(ref); err == nil {
			id = img.ID
		}
		n.ids[ref] = id
	}
	return id
}

// moved reports whether a record's reference does not mean the image that the record has.
func (n names) moved(ref, id string) bool { return ref != "" && id != "" && n.id(ref) != id }
