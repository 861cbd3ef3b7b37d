// Emmett on a store: node emmett.cjs write|read PLACE, with JSON on standard input.
// write takes [{stream, events}, ...] and appends them one after another, read takes [stream, ...].
const [command, place] = process.argv.slice(2)
const input = JSON.parse(require('fs').readFileSync(0, 'utf8'))

const open = () => {
  if (place.includes('://')) return require('@event-driven-io/emmett-postgresql').getPostgreSQLEventStore(place)
  return require('@event-driven-io/emmett-sqlite').getSQLiteEventStore({ fileName: place })
}

const plain = (_, value) => (typeof value === 'bigint' ? String(value) : value)

// On SQLite, its driver waits a second for another writer; nothing is stored then.
const append = async (store, stream, events) => {
  for (;;) {
    try {
      return await store.appendToStream(stream, events)
    } catch (error) {
      if (error.code !== 'SQLITE_BUSY') throw error
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
