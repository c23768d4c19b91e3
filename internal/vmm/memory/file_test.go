package memory

import "testing"

// TestDig makes holes of zero pages.
func TestDig(t *testing.T) {
	const pages = 3 * bounced
	content := make([]byte, pages*pageSize)
	for _, page := range []int{0, 5, bounced - 1, bounced, 2*bounced + 1} {
		content[page*pageSize+100] = 1
	}
	f := create(t)
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	before := data(t, f)
	if err := Dig(f); err != nil {
		t.Fatal(err)
	}
	same(t, f, content)
	if after := data(t, f); before != len(content) || after > 16*pageSize {
		t.Errorf("zero pages did not become holes: %d bytes of data, %d before", after, before)
	}
}
