// One operation of a real reSolve adapter, measured: node resolve_bench.cjs OPERATION STORE [ARGUMENT]
//   create STORE                    an empty store; measures nothing worth telling
//   import STORE EVENTS             export STORE DEST
//   pages STORE                     incremental STORE EVENTS             saves STORE COUNT
// A store is a SQLite file, or the PostgreSQL adapter's options as JSON.
// Prints {"events", "seconds"}, the time of the operation alone: without starting Node and opening the file.
'use strict'
const fs = require('fs')
const readline = require('readline')
const { pipeline } = require('stream/promises')

const PAGE = 1000
const PUSH = 256

const operations = {
  create: async (store) => {
    await store.init()
    return 0
  },

  import: async (store, file) => {
    const stream = store.importEvents()
    await pipeline(fs.createReadStream(file), stream)
    return stream.savedEventsCount
  },

  export: async (store, file) => {
    await pipeline(store.exportEvents(), fs.createWriteStream(file))
    return null
  },

  pages: async (store) => {
    let cursor = null
    let count = 0
    for (;;) {
      const page = await store.loadEvents({ cursor, limit: PAGE })
      if (page.events.length === 0) return count
      count += page.events.length
      cursor = page.cursor
    }
  },

  incremental: async (store, file) => {
    const importId = await store.beginIncrementalImport()
    let batch = []
    let count = 0
    for await (const line of readline.createInterface({ input: fs.createReadStream(file) })) {
      batch.push(JSON.parse(line))
      if (batch.length === PUSH) {
        await store.pushIncrementalImport(batch, importId)
        batch = []
      }
      count++
    }
    if (batch.length > 0) await store.pushIncrementalImport(batch, importId)
    await store.commitIncrementalImport(importId)
    return count
  },

  saves: async (store, count) => {
    for (let version = 1; version <= +count; version++)
      await store.saveEvent({
        aggregateId: 'saved',
        aggregateVersion: version,
        type: 'SAVED',
        timestamp: 1,
        payload: { version },
      })
    return +count
  },
}

const main = async () => {
  const [operation, place, argument] = process.argv.slice(2)
  const store = place.startsWith('{')
    ? require('@resolve-js/eventstore-postgresql').default(JSON.parse(place))
    : require('@resolve-js/eventstore-lite').default({ databaseFile: place })
  if (operation !== 'create') await store.describe()
  const start = process.hrtime.bigint()
  const events = await operations[operation](store, argument)
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  await store.dispose()
  console.log(JSON.stringify({ events, seconds }))
}

main()
