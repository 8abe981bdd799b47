package rbac

// The bounds that tests reach.
const (
	MaxNames               = maxNames
	MaxBody                = maxBody
	MaxOrganizations       = maxOrganizations
	MaxOrganizationNames   = maxOrganizationNames
	MaxOrganizationFetches = maxOrganizationFetches
)

// Grant is a permission of a role.
type Grant struct{ Role, ResourceID, Action string }

// Read is what the fuzz test drives; every other test comes through the exported door.
func Read(body []byte) (map[Grant]bool, error) {
	p, err := readPolicy(body, "policy")
	grants := make(map[Grant]bool)
	for id, granted := range p.roles {
		for g := range granted {
			grants[Grant{id, g.resourceID, g.action}] = true
		}
	}
	return grants, err
}
