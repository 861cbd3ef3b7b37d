// Castore on PostgreSQL: node castore.cjs create|write|read URL, with JSON on standard input.
// write takes [{store, event}, ...], read takes [{store, aggregateId}, ...].
const { PostgresEventStorageAdapter } = require('@castore/event-storage-adapter-postgres')
const [command, connectionString] = process.argv.slice(2)
const input = JSON.parse(require('fs').readFileSync(0, 'utf8'))

const main = async () => {
  if (command === 'create') {
    return PostgresEventStorageAdapter.createEventTable({ connectionString, ...input })
  }
  const adapter = new PostgresEventStorageAdapter({ connectionString })
  const read = []
  for (const { store, aggregateId, event } of input) {
    if (command === 'write') await adapter.pushEvent(event, { eventStoreId: store })
    else read.push((await adapter.getEvents(aggregateId, { eventStoreId: store })).events)
  }
  return read
}

// The adapter's connections keep Node alive.
main().then(
  (read) => process.stdout.write(JSON.stringify(read ?? null), () => process.exit(0)),
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
