package pressure

// Feed has the Monitor read from and collect by these instead of the runtime.
func (m *Monitor) Feed(read func() (needed, limit uint64), collect func()) {
	m.read = func() usage {
		needed, limit := read()
		return usage{needed, limit}
	}
	m.collect = collect
}

var CgroupLimit = cgroupLimit

// Share is what is needed of the limit, as the runtime says.
func Share() float64 { return readUsage().share() }
