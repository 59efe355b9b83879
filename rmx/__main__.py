from rmx.cli import main

raise SystemExit(main())
