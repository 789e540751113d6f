// The command line of solc over npm's solc (wasm), as far as forge needs it: --version and --standard-json.
const fs = require('node:fs')
const path = require('node:path')
const solc = require('solc')

if (process.argv.includes('--version')) {
  const version = solc.version().replace('.Emscripten.clang', '.Linux.g++')
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${version}`)
  process.exit(0)
}

const roots = [process.cwd(), __dirname, path.join(__dirname, 'node_modules')]
function findImport(name) {
  for (const root of roots) {
    const file = path.resolve(root, name)
    if (fs.existsSync(file)) return { contents: fs.readFileSync(file, 'utf8') }
  }
  return { error: `not found: ${name}` }
}

fs.writeSync(1, solc.compile(fs.readFileSync(0, 'utf8'), { import: findImport }))
