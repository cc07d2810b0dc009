"""The synthetic voter (role ``probe``): rounds of voting, their record, and the report of availability from it."""
