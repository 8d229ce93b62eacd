"""How fast every stage is, beside its naive form, peft and what the machine allows: the command `bench`."""
