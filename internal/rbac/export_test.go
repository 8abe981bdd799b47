package rbac

// The bounds that tests reach.
const (
	MaxNames               = maxNames
	MaxOrganizationNames   = maxOrganizationNames
	MaxBody                = maxBody
	MaxOrganizationFetches = maxOrganizationFetches
)

// Remember lets so many organizations, of so many bytes together, be remembered. It is for the time before the first.
func (c *Cache) Remember(organizations, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.organizations.most, c.organizations.mostBytes = organizations, bytes
}

// Keep returns what is kept of an answer, and what it takes in memory, as that is counted.
func Keep(body []byte, member string) (kept any, size int, err error) {
	p, err := readPolicy(body, member, maxNames)
	return p, p.size, err
}

// Grant is a permission of a role.
type Grant struct{ Role, ResourceID, Action string }

// Read is what the fuzz test drives; every other test comes through the exported door.
func Read(body []byte) (map[Grant]bool, error) {
	p, err := readPolicy(body, "policy", maxNames)
	grants := make(map[Grant]bool)
	for id, granted := range p.roles {
		for g := range granted {
			grants[Grant{id, g.resourceID, g.action}] = true
		}
	}
	return grants, err
}
