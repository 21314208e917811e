// Command cronjob tells when Kubernetes' CronJobs would start, for the comparison in testbed/tests/cronjob.rs.
//
//	cronjob next    reads lines "zone <tab> schedule <tab> unix time", prints the next start after it, or "-"
//	cronjob zones   reads lines "zone", prints the changes of its offset from 2000 to 2037: "at:offset at:offset ...", the
//	                first for the offset at the beginning; "-" for a zone that it does not know
//
// The first line of output names the tz database. Run it with ZONEINFO set to the zoneinfo.zip beside it, which is Go's own.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// tzdata is the version of Go's tz database, set at build time.
var tzdata = "unknown"

func main() {
	if len(os.Args) != 2 {
		fail("usage: cronjob next|zones")
	}
	answer := map[string]func(string) string{"next": next, "zones": zones}[os.Args[1]]
	if answer == nil {
		fail("usage: cronjob next|zones")
	}
	in := bufio.NewScanner(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintln(out, tzdata)
	for in.Scan() {
		fmt.Fprintln(out, answer(in.Text()))
	}
	if err := in.Err(); err != nil {
		fail(err.Error())
	}
	if err := out.Flush(); err != nil {
		fail(err.Error())
	}
}

var schedules = map[string]cron.Schedule{}

// next reads a schedule as the CronJob controller does: the standard parser, with the zone as a prefix.
func next(line string) string {
	fields := strings.Split(line, "\t")
	if len(fields) != 3 {
		fail("not three fields: " + line)
	}
	spec := fmt.Sprintf("TZ=%s %s", fields[0], fields[1])
	schedule, ok := schedules[spec]
	if !ok {
		var err error
		if schedule, err = cron.ParseStandard(spec); err != nil {
			fail(spec + ": " + err.Error())
		}
		schedules[spec] = schedule
	}
	at, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		fail(err.Error())
	}
	start := schedule.Next(time.Unix(at, 0).UTC())
	if start.IsZero() {
		return "-"
	}
	return strconv.FormatInt(start.Unix(), 10)
}

func zones(name string) string {
	location, err := time.LoadLocation(name)
	if err != nil {
		return "-"
	}
	offset := func(at int64) int {
		_, offset := time.Unix(at, 0).In(location).Zone()
		return offset
	}
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	end := time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	before := offset(at)
	changes := []string{fmt.Sprintf("%d:%d", at, before)}
	// Time.ZoneBounds would be shorter, but says of some zones that they change at the end of a leap year.
	for ; at < end; at += step {
		after := offset(at + step)
		if after == before {
			continue
		}
		first := sort.Search(step, func(i int) bool { return offset(at+int64(i)) != before })
		changes = append(changes, fmt.Sprintf("%d:%d", at+int64(first), after))
		before = after
	}
	return strings.Join(changes, " ")
}

// step is shorter than the time between two changes of any zone's offset.
const step = 12 * 3600

func fail(message string) {
	fmt.Fprintln(os.Stderr, "cronjob: "+message)
	os.Exit(1)
}
