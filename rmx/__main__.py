from rmx.cli.main import main

raise SystemExit(main())
