package hosts

func firewallSchema(port leaf) *rule {
	sources := func() *rule { return listOf(one(text("source", parseSource))) }
	ends := func() *rule { return listOf(one(text("link name or zone", parseLinkName))) }
	return table(keys{
		"allow": named(ruleNames, table(keys{
			"ports":      listOf(one(port)),
			"protocol":   one(word("tcp", "udp")),
			"from":       sources(),
			"interfaces": listOf(one(text("link name", parseLinkName))),
			"zones":      listOf(one(text("zone", parseZone))),
			"limit":      one(text("rate", parseRate)),
			"burst":      one(integer("integer", 1, 1000000)),
			"limit_by":   one(word(limitTotal, limitSource)),
		})),
		"zone": named(zoneNames, table(keys{
			"interfaces": listOf(one(text("link name", parseLinkName))),
		})),
		"forward": named(ruleNames, table(keys{
			"protocol": one(word("tcp", "udp")),
			"ports":    listOf(one(port)),
			"from":     sources(),
			"to":       sources(),
			"in":       ends(),
			"out":      ends(),
		})),
		"masquerade": named(ruleNames, table(keys{
			"from":   sources(),
			"except": sources(),
			"out":    ends(),
		})),
	})
}
