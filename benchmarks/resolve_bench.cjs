// One operation of the real reSolve SQLite adapter, measured: node resolve_bench.cjs OPERATION DATABASE [FILE]
//   create DATABASE                    an empty store; measures nothing worth telling
//   import DATABASE EVENTS             export DATABASE DEST
//   pages DATABASE                     incremental DATABASE EVENTS             saves DATABASE COUNT
// Prints {"events", "seconds"}, the time of the operation alone: without starting Node and opening the file.
'use strict'
const fs = require('fs')
const readline = require('readline')
const { pipeline } = require('stream/promises')
const createAdapter = require('@resolve-js/eventstore-lite').default

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
  const [operation, databaseFile, argument] = process.argv.slice(2)
  const store = createAdapter({ databaseFile })
  if (operation !== 'create') await store.describe()
  const start = process.hrtime.bigint()
  const events = await operations[operation](store, argument)
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  await store.dispose()
  console.log(JSON.stringify({ events, seconds }))
}

main()
