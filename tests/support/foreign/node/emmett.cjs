// Emmett on a store: node emmett.cjs write|read PLACE, with JSON on standard input.
// write takes [{stream, events}, ...] and appends them one after another, read takes [stream, ...].
const [command, place] = process.argv.slice(2)
console.log = console.error // Emmett logs what it throws too, and standard output is for what was read
const input = JSON.parse(require('fs').readFileSync(0, 'utf8'))

const open = () => {
  if (place.includes('://')) return require('@event-driven-io/emmett-postgresql').getPostgreSQLEventStore(place)
  return require('@event-driven-io/emmett-sqlite').getSQLiteEventStore({ fileName: place })
}

const plain = (_, value) => (typeof value === 'bigint' ? String(value) : value)

// On SQLite, its driver waits a second for another writer. Then nothing was begun, and Emmett fails to roll that back.
const isBusy = ({ code, message }) => code === 'SQLITE_BUSY' || String(message).includes('cannot rollback')

const append = async (store, stream, events) => {
  for (;;) {
    try {
      return await store.appendToStream(stream, events)
    } catch (error) {
      if (!isBusy(error)) throw error
    }
  }
}

const main = async () => {
  const store = open()
  if (command === 'write') {
    for (const { stream, events } of input) await append(store, stream, events)
  } else {
    const read = []
    for (const stream of input) read.push((await store.readStream(stream)).events)
    process.stdout.write(JSON.stringify(read, plain))
  }
  if (store.close) await store.close()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
