package template

import (
	"slices"
	"sync"
	"time"

	"banger/internal/model"
)

// job is a template to be made, or machines to be brought to standby from it.
type job struct {
	key         string
	spec        model.Spec
	fingerprint string
	standby     bool // machines on standby, not the template
	urgent      bool // somebody waits for it
}

func (j job) universal() bool { return j.key[:1] == universalKey }

// beingMade describes the template that will exist.
func (j job) beingMade() *model.Template {
	t := describe(j.key, j.spec, time.Now())
	t.Building = true
	return &t
}

// name tells jobs apart.
func (j job) name() string {
	if j.standby {
		return j.key + "+"
	}
	return j.key
}

// quietTime without any operation passes before a job begins: a user's command comes first.
const quietTime = time.Second

// setback is what has gone wrong with a template, or with standby from it, since it last served a
// start.
type setback struct {
	n     int       // failures to make it
	until time.Time // no start has it made before
	broke bool      // one was made that did not work

	doubts []string // starts that it did not serve, without proof against it: see builder.failed
}

// maxDoubts is how many starts a template may not serve in a row before it is removed.
const maxDoubts = 3

// A failure may have a cause that passes, such as a full disk, or one that stays, such as an init
// that never comes up. So the wait before the next try grows by a factor with each failure.
const (
	retryFirst  = time.Minute
	retryFactor = 4
	retryLast   = 4 * time.Hour
)

// queue holds the jobs to come, in order, and what went wrong with earlier ones. Its methods are
// safe for concurrent use.
type queue struct {
	wake chan struct{} // holds one element when there may be a job

	mu        sync.Mutex // a leaf
	wanted    []job
	building  string             // key of the job that is next or under way
	beingMade *model.Template    // nil when none is
	setbacks  map[string]setback // by a job's name
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1), setbacks: map[string]setback{}} }

// setBack notes that a job failed, and returns when it may be tried again.
func (q *queue) setBack(name string) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.setBackLocked(name)
	return q.setbacks[name].until
}

// didNotWork notes that a template was made that did not work. The first time it is made again at
// once. Later it is made after a while, like one that could not be made.
func (q *queue) didNotWork(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.setbacks[key].broke {
		q.setBackLocked(key)
	}
	s := q.setbacks[key]
	s.broke, s.doubts = true, nil
	q.setbacks[key] = s
}

// doubt notes that a template did not serve a start, and returns how many it did not serve in a
// row. A witness, which may be at fault itself, counts once.
func (q *queue) doubt(key, witness string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.setbacks[key]
	if witness == "" || !slices.Contains(s.doubts, witness) {
		s.doubts = append(s.doubts, witness)
	}
	q.setbacks[key] = s
	return len(s.doubts)
}

// served notes that a template served a start: earlier failures count no more.
func (q *queue) served(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.setbacks, key)
}

func (q *queue) setBackLocked(name string) {
	s := q.setbacks[name]
	s.n++
	wait := retryFirst
	for range s.n - 1 {
		if wait = min(wait*retryFactor, retryLast); wait == retryLast {
			break
		}
	}
	s.until = time.Now().Add(wait)
	q.setbacks[name] = s
}

// isSetBack reports whether a job failed a short while ago.
func (q *queue) isSetBack(j job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.isSetBackLocked(j)
}

func (q *queue) isSetBackLocked(j job) bool { return time.Now().Before(q.setbacks[j.name()].until) }

// succeeded notes that a job was done. Whether its result works is another matter: see served.
func (q *queue) succeeded(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s, ok := q.setbacks[name]; ok {
		s.until = time.Time{}
		q.setbacks[name] = s
	}
}

// want puts a job into the queue, unless it is there or has failed a short while ago.
func (q *queue) want(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.isSetBackLocked(j) || q.building == j.key && !j.standby {
		return
	}
	for _, other := range q.wanted {
		if other.name() == j.name() {
			return
		}
	}
	q.wanted = append(q.wanted, j)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// wants reports whether a template is going to be made in the background.
func (q *queue) wants(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.building == key || slices.ContainsFunc(q.wanted, func(j job) bool { return j.key == key && !j.standby })
}

// next takes the first job from the queue.
func (q *queue) next() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wanted) == 0 {
		q.building = ""
		return job{}, false
	}
	j := q.wanted[0]
	q.wanted = q.wanted[1:]
	q.building = j.key
	return j, true
}

func (q *queue) underWay() *model.Template {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.beingMade
}

func (q *queue) setUnderWay(t *model.Template) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.beingMade = t
}
