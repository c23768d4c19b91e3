package disk

import "banger/internal/model"

// RoomEvery is how much is written before a Room is asked again.
const RoomEvery = 64 * model.MiB

// Room is asked again and again while something long is written, so that the writer stops while
// there is space left for others. It is an io.Writer that only counts.
type Room struct {
	ask   func() error
	count model.Bytes // since the last answer
}

// NewRoom returns a Room of ask, whose error ends the writer. If ask is nil, there is always room.
func NewRoom(ask func() error) *Room { return &Room{ask: ask} }

// Add counts n bytes. A nil Room always has room.
func (r *Room) Add(n int) error {
	if r == nil {
		return nil
	}
	r.count += model.Bytes(n)
	if r.count < RoomEvery || r.ask == nil {
		return nil
	}
	r.count = 0
	return r.ask()
}

// Write counts the bytes.
func (r *Room) Write(p []byte) (int, error) {
	if err := r.Add(len(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}
