package model

import "testing"

func TestReserve(t *testing.T) {
	for text, want := range map[string]Bytes{
		"auto": 2 * GiB, "0": 0, "5G": 5 * GiB, "10%": 10 * GiB, "2.5%": 2560 * MiB, "0%": 0, "1048577": MiB + 1,
	} {
		r, err := ParseReserve(text)
		if err != nil {
			t.Errorf("the reserve %q cannot be read: %v", text, err)
			continue
		}
		if got := r.Of(100 * GiB); got != want {
			t.Errorf("the reserve %s of 100G is %v, want %v", text, got, want)
		}
		if back, err := ParseReserve(r.String()); err != nil || back != r {
			t.Errorf("the reserve %q is printed as %q, which means another one", text, r)
		}
	}
	if r, _ := ParseReserve("auto"); r.Of(10*GiB) != 512*MiB {
		t.Errorf("the default reserve of 10G is %v, want 5%%", r.Of(10*GiB))
	}
	for _, text := range []string{"", "x", "-1", "51%", "-1%", "NaN%", "5%%", "%"} {
		if r, err := ParseReserve(text); err == nil {
			t.Errorf("%q is accepted as the reserve %v", text, r)
		}
	}
}
