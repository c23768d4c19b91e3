package vmmtest

import (
	"bytes"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// described is what the driver reports about itself.
func (s *suite) described() vmm.Info {
	s.Helper()
	info, err := s.driver.Info(s.ctx)
	if err != nil {
		s.Fatalf("a driver that runs machines does not describe itself: %v", err)
	}
	return info
}

// info checks that a driver describes itself, and advises with reasons.
func (s *suite) info() {
	s.h.Machine(s) // skips if there can be none
	info := s.described()
	if info.Version == "" || info.Path == "" || info.Accel == "" || info.Why == "" || info.Grace <= 0 {
		s.Errorf("a part of the driver's description is missing: %+v", info)
	}
	for _, r := range info.Recommendations {
		if r.Kind == "" || r.Reason == "" {
			s.Errorf("a recommendation has no kind or no reason: %+v", r)
		}
	}
}

// features checks that the driver has the features that it claims, and refuses those that it does
// not.
func (s *suite) features() {
	claimed := s.described().Features
	for _, kind := range []vmm.NICKind{vmm.NICUser, vmm.NICTap} {
		m := s.h.Machine(s)
		nic := vmm.NIC{Kind: kind, MAC: []byte{2, 0, 0, 0, 0, 1}}
		if kind == vmm.NICTap {
			nic.Tap = "banger-test"
			if claimed.Has(vmm.FeatureTap) && s.h.Tap != nil {
				nic.Tap = s.h.Tap(s)
			}
		}
		m.NICs = []vmm.NIC{nic}
		if claimed.Has(kind.Feature()) {
			in := s.start(m, ignore)
			s.press(in)
			s.poweredOff(in)
			continue
		}
		before := s.entries(m.RunDir)
		var state vmm.State
		in, err := s.driver.Start(s.ctx, m, func(st vmm.State) error { state = bytes.Clone(st); return nil })
		if fault.KindOf(err) != fault.Unsupported {
			s.Errorf("a card of the kind %q, which the driver does not claim to have, is not refused as unsupported: %v", kind, err)
		}
		if err == nil {
			s.kill(in.State(), m.RunDir)
			continue
		}
		s.nothingLeft(m, before, state)
	}
	s.saversOfRestorer()
}

// saversOfRestorer checks that the machines of a driver that restores can be saved, and no others.
func (s *suite) saversOfRestorer() {
	_, restores := s.driver.(vmm.Restorer)
	_, saves := s.start(s.h.Machine(s), ignore).(vmm.Saver)
	if restores != saves {
		s.Errorf("a driver restores (%v) without that its machines can be saved (%v), or the other way round", restores, saves)
	}
}
