"""The statements that change balances. Each writes the ledger together with the balance, or neither."""

# The compare-and-set of every way down: whoever waited for the row compares with what it holds then.
HOLD = """
WITH account AS (
    UPDATE billing_account SET balance = balance - %(amount)s, updated_at = statement_timestamp()
     WHERE organization_id = %(organization_id)s AND balance >= %(amount)s
    RETURNING id
)
INSERT INTO billing_ledgerentry (id, account_id, kind_code, amount, subject_type, subject_id, created_at)
SELECT %(id)s, account.id, 'hold', - %(amount)s, %(subject_type)s, %(subject_id)s, statement_timestamp() FROM account
RETURNING id
"""

GRANT = """
WITH account AS (
    UPDATE billing_account SET balance = balance + %(amount)s, updated_at = statement_timestamp()
     WHERE id = %(account_id)s AND balance + %(amount)s >= 0
    RETURNING id
)
INSERT INTO billing_ledgerentry (id, account_id, kind_code, amount, note, created_by, created_at)
SELECT %(id)s, account.id, 'grant', %(amount)s, %(note)s, %(created_by)s, statement_timestamp() FROM account
RETURNING id
"""

# In id order, like every set of rows.
LOCK_ACCOUNTS = """
SELECT id FROM billing_account
 WHERE id IN (SELECT account_id FROM billing_ledgerentry WHERE subject_id = ANY(%(subject_ids)s))
 ORDER BY id FOR NO KEY UPDATE
"""

# What was released already is left alone, whatever is told of it: settling never takes from a balance more than was held.
SETTLE = """
WITH held AS (
    SELECT told.*, hold.account_id, hold.subject_type, - hold.amount AS amount
      FROM unnest(%(subject_ids)s::uuid[], %(costs)s::numeric[], %(release_ids)s::uuid[], %(charge_ids)s::uuid[])
           AS told (subject_id, cost, release_id, charge_id)
      JOIN billing_ledgerentry AS hold ON hold.subject_id = told.subject_id AND hold.kind_code = 'hold'
     WHERE NOT EXISTS (SELECT 1 FROM billing_ledgerentry
                        WHERE subject_id = told.subject_id AND kind_code = 'release')
), written AS (
    INSERT INTO billing_ledgerentry (id, account_id, kind_code, amount, subject_type, subject_id, created_at)
    SELECT entry.id, held.account_id, entry.kind_code, entry.amount, held.subject_type, held.subject_id,
           statement_timestamp()
      FROM held CROSS JOIN LATERAL (VALUES
        (held.release_id, 'release', held.amount),
        (held.charge_id, 'charge', - LEAST(held.cost, held.amount))) AS entry (id, kind_code, amount)
     WHERE entry.amount <> 0
    RETURNING account_id, amount
)
UPDATE billing_account AS account
   SET balance = account.balance + written.amount, updated_at = statement_timestamp()
  FROM (SELECT account_id, sum(amount) AS amount FROM written GROUP BY account_id) AS written
 WHERE account.id = written.account_id
"""
